"""Agents, runners' records and sessions in the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from cnap_runner.errors import (
    ConflictError,
    InstanceExited,
    InvalidInput,
    LeaseLost,
    RunnerNotFound,
    RunNotFound,
    StoreError,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import WishKind
from cnap_runner.store.schema import agents
from cnap_runner.store.sql import SqlStore

IsAlive = Callable[[str], bool]
Enter = Callable[..., Awaitable[RunRecord]]
LATER = timedelta(seconds=10)


async def test_an_agent_comes_back_as_it_was_put(store: SqlStore, now: datetime) -> None:
    """put_agent and get_agent give the same row: whole spec, pending runner, aware times to the microsecond."""
    spec = AgentSpec(
        agent_id="carol",
        model="fake/model",
        opencode={"provider": {"fake": {"options": {"n": 1.5, "list": [1, None, "ü"]}}}},
        workspace={"copy": "/somewhere"},
        life={"max_run_time": "5m"},
        labels={"team": "a"},
    )
    row = await store.put_agent(spec, at=now)
    assert row == await store.get_agent("carol")
    assert row.spec == spec
    assert row.runner == RunnerRecord("carol")
    assert (row.created_at, row.updated_at, row.last_active_at) == (now, now, None)
    assert row.created_at.tzinfo is not None


async def test_a_spec_that_cannot_be_read_hinders_no_list(store: SqlStore, now: datetime) -> None:
    """What another version wrote is read where somebody looks into it, and nowhere else: not for how the others are, nor for its model."""
    await store.put_agent(AgentSpec(agent_id="carol", model="fake/model"), at=now)
    strange = '{"agent_id": "carol", "model": "later/model", "unheard_of": true}'
    await store._database.write(lambda tx: tx.execute(agents.update().values(spec=strange)))
    row = next(row for row in await store.list_agents() if row.agent_id == "carol")
    assert (row.model, row.runner.status) == ("later/model", RunnerStatus.PENDING)
    assert await store.list_runners([RunnerStatus.PENDING])
    with pytest.raises(StoreError, match=r"carol.*unheard_of"):
        _ = row.spec


async def test_records_are_listed_by_status_and_instances_by_id(
    store: SqlStore, ready: RunnerRecord, now: datetime
) -> None:
    """Only agents that are not deleted have any."""
    assert await store.list_runners([RunnerStatus.READY, RunnerStatus.PAUSED]) == [ready]
    assert await store.list_runners([RunnerStatus.FAILED]) == []
    assert await store.named_instances() == {ready.instance_id}
    await store.mark_deleted("alice", at=now)
    assert await store.list_runners([RunnerStatus.READY]) == []
    assert await store.named_instances() == set()


async def test_putting_again_replaces_the_spec_and_keeps_the_runner(
    store: SqlStore, ready: RunnerRecord, now: datetime
) -> None:
    """A known agent's whole spec is replaced; its runner's record and creation stay."""
    row = await store.put_agent(AgentSpec(agent_id="alice", model="other/model"), at=now + LATER)
    assert (row.spec.model, row.runner, row.created_at, row.updated_at) == ("other/model", ready, now, now + LATER)


async def test_a_spec_that_json_cannot_hold_is_refused(store: SqlStore, now: datetime) -> None:
    """A spec that would come back as something else raises InvalidInput and leaves nothing."""
    with pytest.raises(InvalidInput, match="JSON cannot"):
        await store.put_agent(AgentSpec(agent_id="carol", model="f/m", opencode={"x": object()}), at=now)
    with pytest.raises(RunnerNotFound):
        await store.get_agent("carol")


async def test_a_deleted_agent_is_gone_until_it_is_put_again(store: SqlStore, enter: Enter, now: datetime) -> None:
    """mark_deleted hides an agent, twice too; its ledger and sessions stay, and put_agent brings it back."""
    await enter("r1")
    await store.set_session("alice", "main", "ses")
    await store.mark_deleted("alice", at=now)
    await store.mark_deleted("alice", at=now + LATER)
    await store.mark_deleted("nobody", at=now)
    with pytest.raises(RunnerNotFound):
        await store.get_agent("alice")
    assert [row.spec.agent_id for row in await store.list_agents()] == ["bob"]
    row = await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now)
    assert row.deleted_at is None
    assert (await store.get_run("r1")).agent_id == "alice"
    assert await store.session_of("alice", "main") == "ses"


async def test_an_erased_agent_leaves_nothing_but_the_erasers_lease(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive
) -> None:
    """erase_agent forgets row, sessions, ledger, wishes and uses; the lease stays until its holder has removed the folders."""
    run = await enter("r1")
    await store.set_session("alice", "main", "ses")
    await store.note_use("m1", "alice")
    await store.add_wish("alice", WishKind.DELETE, task_id=None, at=now)
    assert await store.acquire_lease("alice", "m1", "delete", at=now, is_alive=is_alive)
    await store.erase_agent("alice")
    await store.erase_agent("alice")
    with pytest.raises(RunnerNotFound):
        await store.get_agent("alice")
    with pytest.raises(RunNotFound):
        await store.get_run("r1")
    assert await store.session_of("alice", "main") is None
    assert await store.wishes_for(run) == []
    lease = await store.get_lease("alice")
    assert lease is not None
    assert lease.purpose == "delete"
    assert await store.sign_off("m1", is_alive) == []


async def test_only_a_deleted_agent_is_erased_as_such(store: SqlStore, now: datetime) -> None:
    """list_deleted names it and when; one that came back meanwhile stays."""
    await store.mark_deleted("alice", at=now)
    assert [(row.spec.agent_id, row.deleted_at) for row in await store.list_deleted()] == [("alice", now)]
    await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now)
    assert await store.list_deleted() == []
    assert not await store.erase_deleted("alice")
    assert (await store.get_agent("alice")).spec.model == "f/m"
    await store.mark_deleted("alice", at=now)
    assert await store.erase_deleted("alice")
    assert not await store.erase_deleted("alice")
    assert await store.list_deleted() == []


async def test_an_erased_place_is_not_given_again(store: SqlStore, enter: Enter, now: datetime) -> None:
    """Places only grow, even when the newest entry was erased: a wish never means a later run."""
    first = await enter("r1")
    await store.erase_agent("alice")
    await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now)
    assert (await enter("r2")).place > first.place


# --- runners


async def test_reserving_needs_the_lease(store: SqlStore, now: datetime) -> None:
    """reserve_start without the agent's lease raises LeaseLost and writes nothing."""
    record = RunnerRecord("alice").start_intended(instance_id="i1", spec_hash="h", at=now)
    with pytest.raises(LeaseLost):
        await store.reserve_start(record, manager_id="m1", max_containers=10, at=now)
    assert (await store.get_agent("alice")).runner.status is RunnerStatus.PENDING


@pytest.mark.parametrize("status", ["starting", "ready", "running", "paused", "stopping"])
async def test_each_live_status_takes_a_place(
    store: SqlStore, ready: RunnerRecord, now: datetime, is_alive: IsAlive, status: str
) -> None:
    """With one place, an agent in any live status keeps the others out, but not itself."""
    await store.acquire_lease("alice", "m1", "x", at=now, is_alive=is_alive)
    await store.acquire_lease("bob", "m1", "x", at=now, is_alive=is_alive)
    await store.save_runner(RunnerRecord("alice", status=RunnerStatus(status), instance_id="i1"), manager_id="m1")
    bob = RunnerRecord("bob").start_intended(instance_id="i2", spec_hash="h", at=now)
    assert not await store.reserve_start(bob, manager_id="m1", max_containers=1, at=now)
    assert (await store.get_agent("bob")).runner.status is RunnerStatus.PENDING
    again = RunnerRecord("alice").start_intended(instance_id="i3", spec_hash="h", at=now)
    assert await store.reserve_start(again, manager_id="m1", max_containers=1, at=now)
    assert await store.reserve_start(bob, manager_id="m1", max_containers=2, at=now)


@pytest.mark.parametrize("status", ["pending", "stopped", "failed"])
async def test_an_agent_that_is_not_live_takes_no_place(
    store: SqlStore, now: datetime, is_alive: IsAlive, status: str
) -> None:
    """Only live statuses count towards max_containers."""
    for agent_id in ("alice", "bob"):
        await store.acquire_lease(agent_id, "m1", "x", at=now, is_alive=is_alive)
    await store.save_runner(RunnerRecord("alice", status=RunnerStatus(status)), manager_id="m1")
    bob = RunnerRecord("bob").start_intended(instance_id="i2", spec_hash="h", at=now)
    assert await store.reserve_start(bob, manager_id="m1", max_containers=1, at=now)


async def test_saving_a_runner_needs_the_lease(store: SqlStore, ready: RunnerRecord, now: datetime) -> None:
    """save_runner without the lease raises LeaseLost and writes nothing."""
    with pytest.raises(LeaseLost):
        await store.save_runner(ready.stop_intended(reason="idle", at=now), manager_id="m2")
    assert (await store.get_agent("alice")).runner == ready


async def test_a_death_is_noted_without_a_lease(store: SqlStore, ready: RunnerRecord, now: datetime) -> None:
    """note_death fails the present instance's record, once, with the reason."""
    assert await store.note_death("alice", "i1", reason="killed \udcff", at=now + LATER)
    runner = (await store.get_agent("alice")).runner
    assert (runner.status, runner.reason, runner.endpoint) == (RunnerStatus.FAILED, "killed ?", None)
    assert runner.changed_at == now + LATER
    assert not await store.note_death("alice", "i1", reason="again", at=now)


async def test_the_death_of_another_instance_or_of_a_stopping_one_is_no_news(
    store: SqlStore, ready: RunnerRecord, now: datetime, is_alive: IsAlive
) -> None:
    """note_death concerns the present instance, and only where it should be alive."""
    assert not await store.note_death("alice", "i0", reason="old", at=now)
    assert not await store.note_death("nobody", "i1", reason="?", at=now)
    await store.acquire_lease("alice", "m1", "stop", at=now, is_alive=is_alive)
    stopping = ready.stop_intended(reason="idle", at=now)
    await store.save_runner(stopping, manager_id="m1")
    assert not await store.note_death("alice", "i1", reason="stopped", at=now)
    assert (await store.get_agent("alice")).runner == stopping


async def test_a_noted_death_is_not_overwritten(
    store: SqlStore, ready: RunnerRecord, now: datetime, is_alive: IsAlive
) -> None:
    """The holder of the lease cannot declare a dead instance alive, but can start the next one."""
    await store.acquire_lease("alice", "m1", "run", at=now, is_alive=is_alive)
    await store.note_death("alice", "i1", reason="out of memory", at=now)
    with pytest.raises(InstanceExited, match="out of memory"):
        await store.save_runner(ready.turn_began(at=now), manager_id="m1")
    dead = (await store.get_agent("alice")).runner
    await store.save_runner(dead.start_intended(instance_id="i2", spec_hash="h", at=now), manager_id="m1")
    assert (await store.get_agent("alice")).runner.instance_id == "i2"


# --- sessions


async def test_a_tasks_session_is_remembered_replaced_and_forgotten(store: SqlStore) -> None:
    """set_session keeps one session per task of an agent."""
    assert await store.session_of("alice", "main") is None
    await store.set_session("alice", "main", "s1")
    await store.set_session("alice", "other", "s2")
    assert await store.sessions_of("alice") == {"main": "s1", "other": "s2"}
    assert await store.sessions_of("nobody") == {}
    await store.set_session("bob", "main", "s3")
    await store.set_session("alice", "main", "s4")
    assert await store.session_of("alice", "main") == "s4"
    await store.set_session("alice", "main", None)
    await store.set_session("alice", "main", None)
    assert [await store.session_of(*task) for task in (("alice", "main"), ("alice", "other"), ("bob", "main"))] == [
        None,
        "s2",
        "s3",
    ]
    with pytest.raises(RunnerNotFound):
        await store.set_session("nobody", "main", "s1")


async def test_naive_times_are_refused(store: SqlStore, now: datetime) -> None:
    """A datetime without a zone is nobody's moment."""
    spec: Any = AgentSpec(agent_id="carol", model="f/m")
    with pytest.raises(TypeError):
        await store.put_agent(spec, at=now.replace(tzinfo=None))


async def test_a_spec_is_replaced_only_where_it_is_the_expected_one(store: SqlStore, now: datetime) -> None:
    """Compared and written in one transaction; an agent that is gone does not come back by it."""
    first, second = (AgentSpec(agent_id="carol", model=f"f/{name}") for name in ("one", "two"))
    await store.put_agent(first, at=now)
    assert (await store.put_agent(second, at=now, expected=first)).spec == second
    with pytest.raises(ConflictError):
        await store.put_agent(first, at=now, expected=first)
    assert (await store.get_agent("carol")).spec == second
    await store.mark_deleted("carol", at=now)
    with pytest.raises(RunnerNotFound):
        await store.put_agent(first, at=now, expected=second)
