"""Errors say no secret."""

from __future__ import annotations

import pytest

from cnap_runner import AgentSpec, RunnerManager
from cnap_runner.errors import InstanceStartFailed, ServerRejected
from cnap_runner.model.instance import InstanceRef
from cnap_runner.runner.secrecy.errors import redacted_errors
from cnap_runner.telemetry.redaction import Redactor

SECRET = "correct-horse-battery"


def test_an_error_keeps_all_but_the_secret() -> None:
    """Class, fields and the rest of its text stay; neither `str` nor `repr` shows the secret."""
    with pytest.raises(ServerRejected) as caught, redacted_errors(Redactor([SECRET])):
        raise ServerRejected(f"it said {SECRET}", status=400, hint=f"not {SECRET}")
    assert (caught.value.message, caught.value.status) == ("it said [redacted]", 400)
    assert caught.value.hint == "not [redacted]"
    assert SECRET not in f"{caught.value} {caught.value!r}"


async def test_what_an_engine_repeats_reaches_no_caller(
    manager: RunnerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known secret in an engine's complaint is redacted in what `start_runner` raises and in the runner's record."""

    assert manager._parts is not None
    install = manager._parts.install
    install.redactor.add(SECRET)
    monkeypatch.setattr(install.backend, "create", _refuse_to_create)
    await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo"))
    with pytest.raises(InstanceStartFailed, match=r"bad argument \[redacted\]"):
        await manager.start_runner("alice")
    record = (await manager.get_runner("alice")).record
    assert record.reason is not None
    assert SECRET not in record.reason


async def _refuse_to_create(*_: object) -> InstanceRef:
    raise InstanceStartFailed(f"bad argument {SECRET}")
