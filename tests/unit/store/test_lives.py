"""What the store tells the keeper, and whom it lets have a place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from cnap_runner.errors import RunnerNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.hold import Hold
from cnap_runner.model.run import RunRecord
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.sql import SqlStore

MINUTE = timedelta(minutes=1)
IsAlive = Callable[[str], bool]


@pytest.fixture
async def idle(store: SqlStore, ready: RunnerRecord, now: datetime, is_alive: IsAlive) -> RunnerRecord:
    """Alice, ready since now, due in a minute, and nobody's."""
    record = ready.due(now + MINUTE)
    assert await store.acquire_lease("alice", "m1", "start", at=now, is_alive=is_alive)
    await store.save_runner(record, manager_id="m1")
    await store.release_lease("alice", "m1")
    return record


async def test_the_next_due_is_found_and_moves(store: SqlStore, idle: RunnerRecord, now: datetime) -> None:
    """An agent is due at its time, not before; a due time set for an older record counts for nothing."""
    assert await store.next_due() == now + MINUTE
    assert await store.list_kept(now=now, only_due=True) == []
    assert [kept.agent.runner for kept in await store.list_kept(now=now + MINUTE, only_due=True)] == [idle]
    await store.set_due(replace(idle, changed_at=now - MINUTE), now)
    assert await store.next_due() == now + MINUTE
    await store.set_due(idle, None)
    assert await store.next_due() is None
    assert [kept.standing.agent_id for kept in await store.list_kept(now=now)] == ["alice"]


async def test_a_death_makes_nothing_due(store: SqlStore, idle: RunnerRecord, now: datetime) -> None:
    """Who has no instance is nobody the keeper looks at."""
    assert await store.note_death("alice", idle.instance_id or "", reason="gone", at=now)
    assert await store.next_due() is None
    assert await store.list_kept(now=now) == []


async def test_whoever_is_busy_is_not_free(
    store: SqlStore,
    idle: RunnerRecord,
    now: datetime,
    is_alive: IsAlive,
    enter: Callable[..., Awaitable[RunRecord]],
    ending: Callable[..., object],
) -> None:
    """A lease, a hold and an unfinished run each keep an agent from being idle, and from being paused in the same transaction."""

    async def is_free() -> bool:
        (kept,) = await store.list_kept(now=now)
        return kept.standing.is_free

    async def can_pause() -> bool:
        return await store.save_if_free(idle.paused(at=now), seen=idle, manager_id="m1", now=now)

    assert await is_free()
    assert await store.acquire_lease("alice", "m1", "keep", at=now, is_alive=is_alive)
    assert not await is_free()
    await store.put_hold(Hold("alice", "bob", now + MINUTE), at=now)
    assert not await can_pause()
    assert await store.drop_hold("alice", "bob", at=now)
    await enter("r1")
    assert not await can_pause()


async def test_a_free_agent_is_replaced_by_comparing(
    store: SqlStore, idle: RunnerRecord, now: datetime, is_alive: IsAlive
) -> None:
    """What was seen must still be so; what was written is found by whoever comes later."""
    assert await store.acquire_lease("alice", "m1", "keep", at=now, is_alive=is_alive)
    stale = replace(idle, changed_at=now - MINUTE)
    assert not await store.save_if_free(idle.paused(at=now), seen=stale, manager_id="m1", now=now)
    assert await store.save_if_free(idle.paused(at=now).due(now), seen=idle, manager_id="m1", now=now)
    assert (await store.get_agent("alice")).runner.status is RunnerStatus.PAUSED
    assert await store.count_statuses() == {RunnerStatus.PAUSED: 1, RunnerStatus.PENDING: 1}


async def test_holds_are_renewed_and_end(store: SqlStore, idle: RunnerRecord, now: datetime) -> None:
    """One per owner; renewed it has the new end; one that is over counts for nothing and can be swept; its end makes the agent due."""
    await store.put_hold(Hold("alice", "bob", now + MINUTE), at=now)
    await store.put_hold(Hold("alice", "bob", now + 2 * MINUTE), at=now)
    await store.put_hold(Hold("alice", "eve", now + MINUTE), at=now)
    (kept,) = await store.list_kept(now=now)
    assert kept.standing.held_until == now + 2 * MINUTE
    assert await store.drop_ended_holds(at=now + MINUTE) == [Hold("alice", "eve", now + MINUTE)]
    assert await store.list_holds(at=now + MINUTE) == [Hold("alice", "bob", now + 2 * MINUTE)]
    assert await store.list_holds(at=now + 2 * MINUTE) == []
    assert await store.drop_hold("alice", "bob", at=now - MINUTE)
    assert not await store.drop_hold("alice", "bob", at=now)
    assert await store.next_due() == now - MINUTE
    with pytest.raises(RunnerNotFound):
        await store.put_hold(Hold("nobody", "bob", now), at=now)
    assert idle.due_at == now + MINUTE


async def test_a_hold_ends_with_its_agent(store: SqlStore, idle: RunnerRecord, now: datetime) -> None:
    """A later agent of the same id is held by nobody."""
    await store.put_hold(Hold("alice", "bob", now + MINUTE), at=now)
    spec = (await store.get_agent(idle.agent_id)).spec
    await store.mark_deleted("alice", at=now)
    await store.put_agent(spec, at=now)
    assert await store.list_holds(at=now) == []


def starting(agent_id: str, now: datetime) -> RunnerRecord:
    """The record of a start that is wanted."""
    return RunnerRecord(agent_id).start_intended(instance_id=f"i-{agent_id}", spec_hash="h", at=now)


async def test_places_are_given_in_the_order_of_asking(
    store: SqlStore, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """Whoever waits comes before whoever asks later, in whatever manager; who gave up or died stands in nobody's way."""
    for agent_id, manager_id in (("alice", "m1"), ("bob", "m2"), ("carol", "m3"), ("dave", "m1")):
        await store.put_agent(AgentSpec(agent_id=agent_id, model="fake/model"), at=now)
        assert await store.acquire_lease(agent_id, manager_id, "start", at=now, is_alive=is_alive)

    async def ask(agent_id: str, manager_id: str, places: int = 1) -> bool:
        return await store.reserve_start(
            starting(agent_id, now), manager_id=manager_id, max_containers=places, at=now, is_alive=is_alive
        )

    assert await ask("alice", "m1")
    assert not await ask("bob", "m2")
    assert not await ask("carol", "m3")
    assert not await ask("dave", "m1", 2), "the second place is bob's, who asked first"
    assert not await ask("carol", "m3", 2)
    assert await ask("bob", "m2", 2)
    assert not await ask("dave", "m1", 3)
    await store.release_lease("carol", "m3")
    assert await ask("dave", "m1", 3)
    assert await store.acquire_lease("carol", "m3", "start", at=now, is_alive=is_alive)
    assert not await ask("carol", "m3", 3)
    living.remove("m3")
    await store.put_agent(AgentSpec(agent_id="eve", model="fake/model"), at=now)
    assert await store.acquire_lease("eve", "m1", "start", at=now, is_alive=is_alive)
    assert await ask("eve", "m1", 4), "a dead manager's ticket is void"


async def test_who_does_not_go_on_waiting_is_passed_over(store: SqlStore, now: datetime, is_alive: IsAlive) -> None:
    """A process that lives and does not ask any more, for it is suspended, stands in nobody's way; once it goes on it is the next."""
    for agent_id in ("alice", "bob", "carol"):
        await store.put_agent(AgentSpec(agent_id=agent_id, model="fake/model"), at=now)
        assert await store.acquire_lease(agent_id, f"m-{agent_id}", "start", at=now, is_alive=is_alive)

    async def ask(agent_id: str, after: float, *, places: int = 2) -> bool:
        record, at = starting(agent_id, now), now + timedelta(seconds=after)
        return await store.reserve_start(record, manager_id=f"m-{agent_id}", max_containers=places, at=at)

    async def waiting(after: float) -> list[str]:
        return await store.list_waiting(lambda _: True, at=now + timedelta(seconds=after))

    assert await ask("alice", 0)
    assert not await ask("bob", 0, places=1)
    assert not await ask("carol", 4)
    await store.still_waits("bob", "m-bob", at=now + timedelta(seconds=4))
    await store.still_waits("alice", "m-alice", at=now + timedelta(seconds=4))
    assert await waiting(5) == ["bob", "carol"], "alice waits for nothing"
    assert not await ask("carol", 8.9)
    assert await waiting(9) == ["carol"]
    assert not await ask("bob", 10, places=1), "it goes on"
    assert await waiting(10) == ["bob", "carol"]
    assert not await ask("carol", 14.9)
    assert await ask("carol", 15)
    assert await waiting(15) == []


async def test_there_is_one_keeper_while_there_is_something_to_keep(
    store: SqlStore, idle: RunnerRecord, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """A second one is refused, a dead one replaced; it cannot retire while an instance lives."""
    assert await store.find_keeper(is_alive) is None
    assert await store.claim_keeper("m1", is_alive)
    assert not await store.claim_keeper("m2", is_alive)
    living.remove("m1")
    assert await store.find_keeper(is_alive) is None
    assert await store.claim_keeper("m2", is_alive)
    assert not await store.retire_keeper("m2")
    assert await store.note_death("alice", idle.instance_id or "", reason="gone", at=now)
    assert await store.retire_keeper("m2")
    assert await store.find_keeper(is_alive) is None
