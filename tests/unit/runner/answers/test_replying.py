"""Replies brought to an instance that another process drives: when it is gone, and when nobody can tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cnap_runner import AgentSpec, Runner, RunnerManager
from cnap_runner.errors import AnswerNotPending, BackendError, EngineUnavailable, InstanceNotFound
from cnap_runner.model.answers import AnswerKind, PendingAnswer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def elsewhere(house: Any, manager: RunnerManager, spec: AgentSpec) -> AsyncIterator[Runner]:
    """An agent that one manager drives, as another process sees it."""
    await manager.create_runner(spec)
    await manager.start_runner("alice")
    async with house.manager(is_observer=True) as other:
        yield await other.get_runner("alice")


async def asked(manager: RunnerManager, instance_id: str | None = None) -> PendingAnswer:
    """A permission that waits, of the agent's present instance or another."""
    store = manager._usable().install.store
    present = (await store.get_agent("alice")).runner.instance_id or ""
    what = {"permission": "bash", "patterns": ["ls"]}
    pending = PendingAnswer(
        "per_1", "alice", "run-1", instance_id or present, AnswerKind.PERMISSION, what, asked_at=NOW, deadline_at=NOW
    )
    return await store.add_pending(pending)


def break_engine(house: Any, patched: pytest.MonkeyPatch, error: BackendError) -> None:
    async def inspect(_: Any) -> Any:
        raise error

    patched.setattr(house.backend, "inspect", inspect)


async def test_f01_an_engine_that_is_away_for_a_moment_forgets_nothing_that_waits(
    house: Any, manager: RunnerManager, elsewhere: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever replies is told of the engine, and may reply later."""
    pending = await asked(manager)
    break_engine(house, monkeypatch, EngineUnavailable("The engine is away."))
    with pytest.raises(EngineUnavailable):
        await elsewhere.answer(pending.request_id, "allow")
    assert await elsewhere.pending_answers() == [pending]


async def test_what_an_instance_asked_that_is_gone_is_forgotten(
    house: Any, manager: RunnerManager, elsewhere: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has taken its place, or the engine knows it no more."""
    pending = await asked(manager, "i-before")
    with pytest.raises(AnswerNotPending, match="waits for an answer no more"):
        await elsewhere.answer(pending.request_id, "allow")
    assert await elsewhere.pending_answers() == []
    pending = await asked(manager)
    break_engine(house, monkeypatch, InstanceNotFound("It is gone."))
    with pytest.raises(AnswerNotPending, match="waits for an answer no more"):
        await elsewhere.answer(pending.request_id, "allow")
    assert await elsewhere.pending_answers() == []
