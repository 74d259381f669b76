"""What ``doctor`` says of egress."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnap_runner import Settings
from cnap_runner.cli.checks import State, check_egress
from cnap_runner.egress import filter as filter_module


async def test_missing_filter_is_said_with_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot filter packets reads which modes are refused, and that metadata addresses stay open."""
    monkeypatch.setattr(filter_module, "why_no_filter", lambda: "iptables is not installed.")
    (found,) = await check_egress(Settings(data_dir=tmp_path))
    assert found.state is State.WARN
    assert all(word in found.message for word in ("metadata", "allowlist", "iptables is not installed"))


async def test_nothing_is_said_where_nothing_is_isolated(tmp_path: Path) -> None:
    """The process backend has no egress to keep."""
    assert await check_egress(Settings(data_dir=tmp_path, backend="process")) == []
