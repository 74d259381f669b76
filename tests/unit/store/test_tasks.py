"""Tasks in the store: who may do what, and how turns are settled from the run ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from cnap_runner.errors import (
    ConflictError,
    InvalidInput,
    InvalidTransition,
    RunInProgress,
    RunnerNotFound,
    TaskNotFound,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord, RunResult
from cnap_runner.model.task import OPEN_STATES, TaskRecord, TaskState, TaskTurn
from cnap_runner.store.sql import SqlStore

GONE = "its manager ended"
LATER = timedelta(seconds=10)
Begin = Callable[..., Awaitable[TaskTurn]]
Send = Callable[[TaskTurn], Awaitable[RunRecord]]


@pytest.fixture
def begin(store: SqlStore, now: datetime) -> Begin:
    """Begin a turn of the task ``t``, which is created where it is not there."""

    async def begin(prompt: str | None = "hello", *, owner: str = "m1") -> TaskTurn:
        if not await store.tasks.list_newest():
            await store.tasks.create("t", "alice", None, at=now)
        return await store.tasks.begin_turn("t", prompt, allowed=OPEN_STATES, owner=owner, at=now)

    return begin


@pytest.fixture
def send(sent: Callable[..., Awaitable[RunRecord]]) -> Send:
    """Bring the run of a turn to ``sending``."""

    async def send(turn: TaskTurn) -> RunRecord:
        owner = turn.task.owner or ""
        return await sent(f"r{turn.task.turns}", owner=owner, task_id=turn.task.task_id, key=turn.key)

    return send


async def said(store: SqlStore) -> list[tuple[str, str, str | None]]:
    """What was said in the task: by whom, what, in which run."""
    return [(message.role, message.content, message.run_id) for message in await store.tasks.messages("t")]


async def test_a_task_comes_back_as_it_was_created(store: SqlStore, now: datetime) -> None:
    """Its prompt is its first message; listed newest first; deleted ones are hidden and keep their id."""
    task = await store.tasks.create("t", "alice", "hello", at=now)
    assert (task.state, task.turns, task.owner, task.created_at) == (TaskState.PENDING, 0, None, now)
    assert await store.tasks.get("t") == task
    assert await said(store) == [("user", "hello", None)]
    other = await store.tasks.create("u", "bob", None, at=now + LATER)
    assert await store.tasks.list_newest() == [other, task]
    assert await store.tasks.list_newest("alice", states=[TaskState.PENDING]) == [task]
    await store.tasks.move("t", TaskState.DELETED, reason=None, at=now)
    assert await store.tasks.list_newest() == [other]
    with pytest.raises(TaskNotFound):
        await store.tasks.messages("t")
    with pytest.raises(ConflictError, match="used before"):
        await store.tasks.create("t", "alice", None, at=now)
    with pytest.raises(RunnerNotFound):
        await store.tasks.create("v", "nobody", None, at=now)


async def test_a_refused_turn_leaves_nothing(store: SqlStore, begin: Begin, now: datetime) -> None:
    """A second turn while one is under way, one with nothing to send, and one of a gone agent change neither state nor messages."""
    with pytest.raises(InvalidInput, match="nothing to send"):
        await begin(None)
    await begin("one")
    with pytest.raises(RunInProgress):
        await begin("two")
    assert [content for _, content, _ in await said(store)] == ["one"]
    await store.tasks.create("u", "bob", None, at=now)
    await store.mark_deleted("bob", at=now)
    with pytest.raises(RunnerNotFound):
        await store.tasks.begin_turn("u", "hello", allowed=OPEN_STATES, owner="m1", at=now)
    assert (await store.tasks.get("u")).state is TaskState.PENDING
    await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    with pytest.raises(ConflictError, match="begun before"):
        await store.tasks.begin_turn("t", None, allowed={TaskState.PENDING}, owner="m1", at=now)


async def test_a_turn_that_succeeded_is_settled_once(
    store: SqlStore, begin: Begin, send: Send, ending: Callable[..., RunResult], now: datetime
) -> None:
    """Its run is known from the ledger's entry on; its output is the next message; settling again changes nothing."""
    turn = await begin()
    run = await send(turn)
    assert (await store.tasks.note_run("t", owner="m1")).run_id == run.run_id
    unfinished = await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    assert (unfinished.state, unfinished.owner) == (TaskState.RUNNING, "m1")
    await store.finish_run(run, ending(run), runner=None, at=now)
    settled = await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    assert (settled.state, settled.owner, settled.run_id, settled.reason) == (TaskState.WAITING, None, "r1", None)
    assert await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now + LATER) == settled
    assert await said(store) == [("user", "hello", "r1"), ("assistant", "done", "r1")]


async def test_only_what_certainly_was_not_sent_goes_with_the_next_turn(
    store: SqlStore, begin: Begin, send: Send, ending: Callable[..., RunResult], now: datetime
) -> None:
    """A turn without a run or with one that was not sent leaves its messages unsent; one that failed later does not."""
    assert [message.content for message in (await begin("one")).messages] == ["one"]
    failed = await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    assert (failed.state, failed.reason, failed.run_id) == (TaskState.FAILED, GONE, None)
    turn = await begin("two")
    assert [message.content for message in turn.messages] == ["one", "two"]
    run = await send(turn)
    await store.finish_run(run, ending(run, "not_sent"), runner=None, at=now)
    await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    again = await begin(None)
    assert again.messages == turn.messages
    assert again.key != turn.key
    run = await send(again)
    await store.finish_run(run, ending(run, "provider_error"), runner=None, at=now)
    failed = await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    assert (failed.state, failed.reason) == (TaskState.FAILED, "it went wrong")
    assert [message.content for message in (await begin("three")).messages] == ["three"]


async def test_turns_that_nobody_drives_are_settled_from_the_ledger(
    store: SqlStore, begin: Begin, send: Send, ending: Callable[..., RunResult], now: datetime
) -> None:
    """A turn that somebody drives is never touched; another one is settled as soon as its run has ended, and returned so once."""
    driven = {("t", "m2")}

    def is_driven(task: TaskRecord) -> bool:
        return (task.task_id, task.owner) in driven

    run = await send(await begin(owner="m2"))
    assert await store.tasks.settle_turns(is_driven, reason=GONE, at=now) == []
    assert (await store.tasks.get("t")).owner == "m2"
    driven.clear()
    (unfinished,) = await store.tasks.settle_turns(is_driven, reason=GONE, at=now)
    assert (unfinished.task_id, unfinished.owner) == ("t", "m2")
    await store.finish_run(run, ending(run), runner=None, at=now)
    (settled,) = await store.tasks.settle_turns(is_driven, reason=GONE, at=now)
    assert (settled.state, settled.owner) == (TaskState.WAITING, None)
    assert settled == await store.tasks.get("t")
    assert await store.tasks.settle_turns(is_driven, reason=GONE, at=now) == []


async def test_a_canceled_task_stays_canceled_when_its_turn_ends(
    store: SqlStore, begin: Begin, send: Send, ending: Callable[..., RunResult], now: datetime
) -> None:
    """What the turn still said is kept; the state is not; deleting it meanwhile disturbs nothing."""
    run = await send(await begin())
    canceled = await store.tasks.move("t", TaskState.CANCELED, reason="enough", at=now)
    assert canceled is not None
    assert (canceled.state, canceled.owner) == (TaskState.CANCELED, "m1")
    assert (await store.tasks.canceled_turns("m1"), await store.tasks.canceled_turns("m2")) == (["t"], [])
    assert await store.tasks.move("t", TaskState.CANCELED, reason="again", at=now + LATER) is None
    await store.finish_run(run, ending(run, "aborted"), runner=None, at=now)
    ended = await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    assert (ended.state, ended.owner, ended.reason) == (TaskState.CANCELED, None, "enough")
    assert await store.tasks.canceled_turns("m1") == []
    assert await said(store) == [("user", "hello", "r1"), ("assistant", "done", "r1")]
    with pytest.raises(InvalidTransition, match="canceled and cannot become running"):
        await begin("more")


async def test_a_task_deleted_in_its_last_turn_is_settled_all_the_same(
    store: SqlStore, begin: Begin, now: datetime
) -> None:
    """Its driver finds its turn and ends it; the task stays hidden."""
    await begin()
    await store.tasks.move("t", TaskState.CANCELED, reason=None, at=now)
    await store.tasks.move("t", TaskState.DELETED, reason=None, at=now)
    assert (await store.tasks.note_run("t", owner="m1")).state is TaskState.DELETED
    assert (await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)).owner is None
    with pytest.raises(TaskNotFound):
        await store.tasks.get("t")


async def test_tasks_outlive_a_deleted_agent_and_go_with_an_erased_one(
    store: SqlStore, begin: Begin, now: datetime
) -> None:
    """One that comes back goes on with its tasks; of an erased one nothing is left, and its tasks' ids are free."""
    await begin()
    await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    await store.mark_deleted("alice", at=now)
    assert [content for _, content, _ in await said(store)] == ["hello"]
    await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now + LATER)
    await begin()
    await store.erase_agent("alice")
    with pytest.raises(TaskNotFound):
        await store.tasks.end_turn("t", owner="m1", reason=GONE, at=now)
    await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now + LATER)
    await store.tasks.create("t", "alice", None, at=now)
    assert await said(store) == []
