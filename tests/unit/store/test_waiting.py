"""Permissions and questions that wait, in the store."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cnap_runner.model.answers import AnswerKind, PendingAnswer
from cnap_runner.model.run import RunRecord, RunResult
from cnap_runner.store.sql import SqlStore

Enter = Callable[..., Awaitable[RunRecord]]
Ending = Callable[..., RunResult]

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def waits(request_id: str, agent_id: str = "alice", **more: object) -> PendingAnswer:
    base = PendingAnswer(
        request_id=request_id,
        agent_id=agent_id,
        run_id="run-1",
        instance_id="i-1",
        kind=AnswerKind.PERMISSION,
        asked={"permission": "bash", "patterns": ["ls"]},
        asked_at=NOW,
        deadline_at=NOW + timedelta(minutes=5),
    )
    return replace(base, **more)  # type: ignore[arg-type]


async def test_what_waits_is_found_by_id_and_by_agent_oldest_first(store: SqlStore) -> None:
    """All of it comes back as it was written, and is counted by agent."""
    later = waits("per_1", asked_at=NOW + timedelta(seconds=1))
    first, other = waits("per_2"), waits("per_3", "bob", kind=AnswerKind.QUESTION, asked={"questions": []})
    for pending in (later, first, other):
        assert await store.add_pending(pending) == pending
    assert await store.get_pending("per_3") == other
    assert await store.list_pending("alice") == [first, later]
    assert len(await store.list_pending()) == 3
    assert await store.count_pending() == {"alice": 2, "bob": 1}


async def test_the_first_deadline_stays(store: SqlStore) -> None:
    """Whoever takes a turn over and finds its question again does not give it more time."""
    first = await store.add_pending(waits("per_1"))
    assert await store.add_pending(waits("per_1", deadline_at=NOW + timedelta(hours=1))) == first


async def test_what_is_answered_or_whose_run_ended_waits_no_more(store: SqlStore, enter: Enter, ending: Ending) -> None:
    """Dropping is idempotent, a run's end takes its own alone, and an agent that is erased all."""
    run = await enter("run-1")
    for pending in (waits("per_1"), waits("per_2"), waits("per_3", run_id="run-2")):
        await store.add_pending(pending)
    for _ in range(2):
        await store.drop_pending("per_1")
    assert await store.get_pending("per_1") is None
    await store.finish_run(run, ending(run), runner=None, at=NOW)
    assert [pending.request_id for pending in await store.list_pending()] == ["per_3"]
    await store.erase_agent("alice")
    assert await store.count_pending() == {}


async def test_what_a_dead_instance_asked_waits_no_more_once_its_run_goes_on(
    store: SqlStore, enter: Enter, is_alive: Callable[[str], bool]
) -> None:
    """In the very transaction in which the run leaves for another instance; what that one asks, and other runs', stays."""
    run = await enter("run-1")
    assert await store.claim_turn(run, at=NOW, is_alive=is_alive)
    sent = await store.mark_sending(run, session_id="s", instance_id="i-1", after_message_id=None, at=NOW)
    assert isinstance(sent, RunRecord)
    for pending in (waits("per_1"), waits("per_2", instance_id="i-2"), waits("per_3", run_id="run-2")):
        await store.add_pending(pending)
    await store.mark_resuming(sent, instance_id="i-2", resumed_after="msg")
    assert [pending.request_id for pending in await store.list_pending()] == ["per_2", "per_3"]
