"""Permissions and questions that wait, in the store."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cnap_runner import AgentSpec
from cnap_runner.model.answers import AnswerKind, PendingAnswer
from cnap_runner.store.base import NewRun, Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def waits(request_id: str, agent_id: str = "alice", **more: object) -> PendingAnswer:
    base = PendingAnswer(
        request_id=request_id,
        agent_id=agent_id,
        run_id=f"run-1-{agent_id}",
        instance_id="i-1",
        kind=AnswerKind.PERMISSION,
        asked={"permission": "bash", "patterns": ["ls"]},
        asked_at=NOW,
        deadline_at=NOW + timedelta(minutes=5),
    )
    return replace(base, **more)  # type: ignore[arg-type]


async def agents(store: Store, *names: str) -> None:
    """Agents, each with two unfinished runs."""
    for name in names:
        await store.put_agent(AgentSpec(agent_id=name, model="fake/demo"), at=NOW)
        for number in (1, 2):
            run = NewRun(f"run-{number}-{name}", name, "main", "m", "print", None, None, NOW)
            await store.enter_run(run, must_be_alone=False)


async def test_what_waits_is_found_by_id_and_by_agent_oldest_first(store: Store) -> None:
    """All of it comes back as it was written, and is counted by agent."""
    await agents(store, "alice", "bob")
    later = waits("per_1", asked_at=NOW + timedelta(seconds=1))
    first, other = waits("per_2"), waits("per_3", "bob", kind=AnswerKind.QUESTION, asked={"questions": []})
    for pending in (later, first, other):
        assert await store.add_pending(pending) == pending
    assert await store.get_pending("per_3") == other
    assert await store.list_pending("alice") == [first, later]
    assert len(await store.list_pending()) == 3
    assert await store.count_pending() == {"alice": 2, "bob": 1}


async def test_the_first_deadline_stays(store: Store) -> None:
    """Whoever takes a turn over and finds its question again does not give it more time."""
    await agents(store, "alice")
    first = await store.add_pending(waits("per_1"))
    assert await store.add_pending(waits("per_1", deadline_at=NOW + timedelta(hours=1))) == first


async def test_nothing_waits_for_a_run_that_is_over(store: Store) -> None:
    """Even where it could not be forgotten at the run's end."""
    await agents(store, "alice")
    await store.add_pending(waits("per_1", run_id="run-of-old"))
    assert (await store.list_pending(), await store.count_pending()) == ([], {})


async def test_what_is_answered_or_whose_run_ended_waits_no_more(store: Store) -> None:
    """Dropping is idempotent, and leaves other runs alone; deleting the agent's history ends the rest."""
    await agents(store, "alice")
    for pending in (waits("per_1"), waits("per_2"), waits("per_3", run_id="run-2-alice")):
        await store.add_pending(pending)
    for _ in range(2):
        await store.drop_pending("per_1")
        await store.drop_pending_of("alice", "run-1-alice")
    assert [pending.request_id for pending in await store.list_pending()] == ["per_3"]
    assert await store.get_pending("per_1") is None
    await store.erase_agent("alice")
    assert await store.count_pending() == {}
