"""What stands between an install's instances and the world, where it cannot stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnap_runner.egress import barrier as barrier_module
from cnap_runner.egress import filter as filter_module
from cnap_runner.egress.barrier import Barrier
from cnap_runner.egress.process import living_proxy
from cnap_runner.errors import BackendError, InvalidInput

LOOPBACK = "lo"


@pytest.fixture
def barrier(tmp_path: Path) -> Barrier:
    return Barrier(tmp_path, "test-unit")


def test_bridge_of_another_machine_is_refused(barrier: Barrier) -> None:
    """Where the engine is elsewhere, nothing is closed and nothing is claimed to be."""
    with pytest.raises(InvalidInput, match="br-none is not on this machine"):
        barrier.close("br-none", "10.0.0.1")
    assert "not on this machine" in (barrier.guard("br-none") or "")
    assert living_proxy(barrier.folder) is None


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_missing_filter_is_refused(barrier: Barrier, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Without a packet filter no proxy is started: it would only look closed."""
    monkeypatch.setattr(filter_module, "_programs", lambda: [program])
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(InvalidInput, match=f"{program} is not installed"):
        barrier.close(LOOPBACK, "127.0.0.1")
    assert living_proxy(barrier.folder) is None
    barrier.remove()


def test_missing_right_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user is told what right is missing, in the program's own words too."""

    def refuse(*_: str) -> str:
        raise BackendError("iptables failed: Permission denied (you must be root)")

    monkeypatch.setattr("shutil.which", lambda _: "/sbin/iptables")
    monkeypatch.setattr(filter_module, "_call", refuse)
    why = filter_module.why_no_filter() or ""
    assert "CAP_NET_ADMIN" in why
    assert "you must be root" in why


def test_upstream_that_cannot_be_gone_through_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A company's proxy of another kind is refused before a proxy of ours is started."""
    monkeypatch.setattr(barrier_module, "why_no_filter", lambda: None)
    barrier = Barrier(tmp_path, "test-unit", http_proxy="https://proxy.example:3128")
    with pytest.raises(InvalidInput, match="http://"):
        barrier.close(LOOPBACK, "127.0.0.1")
    assert living_proxy(barrier.folder) is None
