"""Turns of tasks: accepted once, done in order, settled from the ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from cnap_runner import Message, RunnerManager, RunRequest
from cnap_runner.controller import Executor, Tasks
from cnap_runner.errors import (
    ConflictError,
    InstanceStartFailed,
    InvalidInput,
    InvalidTransition,
    ManagerUnusable,
    RunInProgress,
    RunnerNotFound,
    TaskNotFound,
)
from cnap_runner.model.run import RunState
from cnap_runner.model.task import OPEN_STATES, TaskEvent, TaskState
from cnap_runner.store.base import NewRun
from cnap_runner.testing.fake_opencode import Fail, Hold, Say
from cnap_runner.testing.house import House

if TYPE_CHECKING:
    from tests.unit.controller.conftest import Heard

Until = Callable[[Callable[[], bool]], Awaitable[None]]
GONE = "m-000000000000000"
"""A manager that nobody has seen alive."""


async def said(executor: Executor, task_id: str) -> list[str]:
    """What was said in a task, in order."""
    return [f"{message.role}: {message.content}" for message in await executor.tasks.messages(task_id)]


async def release_soon(house: House) -> None:
    """Let the turn of alice go on, a moment after whoever waits for it began to."""
    await anyio.sleep(0.1)
    house.servers["alice"].release()


async def test_a_tasks_life_from_its_first_turn_to_its_end(executor: Executor, house: House, heard: Heard) -> None:
    """Execute, continue, complete: in one session, each message sent once, all kept in order, each change told once."""
    task = await executor.tasks.create("alice", "one", task_id="t")
    assert (task.state, house.starts) == (TaskState.PENDING, [])
    await executor.execute("t")
    assert (await executor.wait("t")).state is TaskState.WAITING
    await executor.send("t", "two")
    waiting = await executor.wait("t")
    assert (waiting.state, waiting.turns, waiting.owner) == (TaskState.WAITING, 2, None)
    done = await executor.tasks.complete("t")
    assert done.state is TaskState.COMPLETED
    assert await executor.tasks.complete("t") == done
    assert await said(executor, "t") == ["user: one", "assistant: ONE", "user: two", "assistant: TWO"]
    assert house.prompts == ["one", "two"]
    assert len(house.servers["alice"].sessions) == 1
    expected = ["pending", "running", "waiting", "running", "waiting", "completed"]
    assert heard.states == [("t", state) for state in expected]


async def test_a_second_turn_while_one_is_under_way_is_refused(executor: Executor, house: House, until: Until) -> None:
    """It says so, changes nothing, and the first goes on."""
    house.script([Hold(), Say("done")])
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    await until(lambda: bool(house.prompts))
    for again in (executor.send("t", "two"), executor.execute("t"), executor.send("t")):
        with pytest.raises(RunInProgress):
            await again
    with pytest.raises(InvalidTransition):
        await executor.tasks.complete("t")
    house.servers["alice"].release()
    await executor.wait("t")
    assert await said(executor, "t") == ["user: one", "assistant: done"]


async def test_what_cannot_be_is_refused_before_anything_changes(executor: Executor, house: House) -> None:
    """Unknown tasks and agents, nothing to send, states that do not allow it: one clear error each, and nothing is started."""
    await executor.tasks.create("alice", task_id="t")
    with pytest.raises(TaskNotFound):
        await executor.send("nobody", "hello")
    with pytest.raises(RunnerNotFound):
        await executor.tasks.create("nobody")
    with pytest.raises(InvalidInput, match="nothing to send"):
        await executor.execute("t")
    for prompt in ("  ", "a\x00b", "half \ud800"):
        with pytest.raises(InvalidInput):
            await executor.send("t", prompt)
    with pytest.raises(InvalidTransition):
        await executor.tasks.complete("t")
    await executor.cancel("t")
    with pytest.raises(InvalidTransition):
        await executor.send("t", "hello")
    assert await executor.tasks.messages("t") == []
    assert house.starts == []


async def test_events_do_what_they_name_and_may_be_delivered_again(executor: Executor, house: House) -> None:
    """A repeated execute, before it was begun, begins it; afterwards it is refused, and so is another task of that id."""
    event = TaskEvent(type="execute", task_id="t", agent_id="alice", prompt="one")
    await executor.tasks.create("alice", "one", task_id="t")
    with pytest.raises(ConflictError):
        await executor.handle(event.model_copy(update={"agent_id": None, "prompt": "something else"}))
    assert (await executor.handle(event)).state is TaskState.RUNNING
    await executor.wait("t")
    for wrong in (event, event.model_copy(update={"agent_id": "bob"})):
        with pytest.raises(ConflictError):
            await executor.handle(wrong)
    await executor.handle(TaskEvent(type="continue", task_id="t", prompt="two"))
    await executor.wait("t")
    assert (await executor.handle(TaskEvent(type="complete", task_id="t"))).state is TaskState.COMPLETED
    await executor.handle(TaskEvent(type="execute", task_id="u", agent_id="alice", prompt="three"))
    assert (await executor.handle(TaskEvent(type="cancel", task_id="u"))).state is TaskState.CANCELED
    assert house.prompts[:2] == ["one", "two"]


async def test_so_many_agents_work_at_once_and_one_agents_tasks_take_one_place(
    executor: Executor, house: House, until: Until
) -> None:
    """With two places, the second task of one agent does not keep another agent's from being done."""
    house.script([Hold(), Say("done")])
    for task_id, agent_id in (("a1", "alice"), ("a2", "alice"), ("b1", "bob"), ("c1", "carol")):
        await executor.tasks.create(agent_id, task_id, task_id=task_id)
        await executor.execute(task_id)
        await until(lambda: len(house.prompts) == 1)
    for task_id in ("b1", "c1"):
        assert (await executor.wait(task_id)).state is TaskState.WAITING
    assert sorted(house.prompts) == ["a1", "b1", "c1"]
    house.servers["alice"].release()
    assert (await executor.wait("a2")).state is TaskState.WAITING
    assert house.servers["alice"].prompts == ["a1", "a2"]


async def test_a_canceled_turn_is_aborted_and_its_task_stays_canceled(
    executor: Executor, house: House, heard: Heard, until: Until
) -> None:
    """Canceling returns when the turn has ended; twice is once; it is told once."""
    house.script([Say("half"), Hold()])
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    await until(lambda: bool(house.prompts))
    task = await executor.cancel("t")
    assert (task.state, task.owner) == (TaskState.CANCELED, None)
    assert await executor.cancel("t") == task
    assert [state for _, state in heard.states] == ["pending", "running", "canceled"]
    run = await executor._manager.get_run(task.run_id or "")
    assert run.result is not None
    assert run.result.outcome == "aborted"


async def test_a_task_canceled_while_it_waits_for_a_place_is_never_sent(
    executor: Executor, house: House, until: Until
) -> None:
    """It leaves the line at once; what is under way goes on."""
    house.script([Hold(), Say("done")])
    for task_id in ("t", "u"):
        await executor.tasks.create("alice", task_id, task_id=task_id)
        await executor.execute(task_id)
    await until(lambda: bool(house.prompts))
    assert (await executor.cancel("u")).state is TaskState.CANCELED
    assert (await executor.tasks.get("t")).state is TaskState.RUNNING
    house.servers["alice"].release()
    await executor.wait("t")
    assert house.prompts == ["t"]


async def test_a_task_is_canceled_from_another_process(executor: Executor, house: House, until: Until) -> None:
    """The driver elsewhere hears it and ends the turn."""
    house.script([Hold(), Say("done")])
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    await until(lambda: bool(house.prompts))
    async with house.manager(is_observer=True) as other:
        assert (await Tasks(other).cancel("t")).state is TaskState.CANCELED
    assert (await executor.wait("t")).state is TaskState.CANCELED


async def test_of_many_who_cancel_a_task_at_once_one_tells(executor: Executor, heard: Heard) -> None:
    """The one that changed it."""
    await executor.tasks.create("alice", "one", task_id="t")
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(executor.cancel, "t")
    assert heard.states == [("t", "pending"), ("t", "canceled")]


async def test_canceling_from_another_process_returns_when_a_waiting_turn_has_left_the_line(
    executor: Executor, house: House, heard: Heard, until: Until
) -> None:
    """Though the ledger has no entry of it yet, by which its driver could be told; it is never sent."""
    house.script([Hold(), Say("done")])
    for task_id in ("t", "u"):
        await executor.tasks.create("alice", task_id, task_id=task_id)
        await executor.execute(task_id)
    await until(lambda: bool(house.prompts))
    async with house.manager(is_observer=True) as other:
        task = await Tasks(other).cancel("u")
    assert (task.state, task.owner, task.run_id) == (TaskState.CANCELED, None, None)
    assert (await executor.tasks.get("t")).state is TaskState.RUNNING
    house.servers["alice"].release()
    await executor.wait("t")
    assert house.prompts == ["t"]
    assert [state for task_id, state in heard.states if task_id == "u"] == ["pending", "running", "canceled"]


async def test_a_failed_task_may_go_on_in_its_session(executor: Executor, house: House) -> None:
    """What the failed turn sent is not sent again."""
    house.script([Fail("the key is not valid")])
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    failed = await executor.wait("t")
    assert (failed.state, failed.reason) == (TaskState.FAILED, "the key is not valid (HTTP 500)")
    with pytest.raises(InvalidInput, match="nothing to send"):
        await executor.send("t")
    await executor.send("t", "two")
    assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.prompts == ["one", "two"]
    assert len(house.servers["alice"].sessions) == 1


async def test_what_was_not_sent_goes_with_the_next_turn(
    executor: Executor, house: House, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that would not start fails the task with its reason, told once; sending again sends it, once."""

    async def refuse(*_: object, **__: object) -> None:
        raise InstanceStartFailed("no luck today")

    await executor.tasks.create("alice", "one", task_id="t")
    with monkeypatch.context() as patch:
        patch.setattr(house.backend, "start", refuse)
        await executor.execute("t")
        failed = await executor.wait("t")
    assert failed.state is TaskState.FAILED
    assert "no luck today" in (failed.reason or "")
    assert [state for _, state in heard.states] == ["pending", "running", "failed"]
    await executor.send("t")
    assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.prompts == ["one"]


# --- restarts ---------------------------------------------------------------------------------------------------------


async def test_a_turn_whose_manager_died_before_its_entry_was_not_sent(manager: RunnerManager, house: House) -> None:
    """The task fails, and its next turn sends what it said."""
    tasks = Tasks(manager)
    await tasks.create("alice", "one", task_id="t")
    await manager.parts.install.store.tasks.begin_turn("t", None, allowed=OPEN_STATES, owner=GONE, at=datetime.now(UTC))
    failed = await tasks.get("t")
    assert (failed.state, failed.owner) == (TaskState.FAILED, None)
    async with Executor(manager) as executor:
        await executor.send("t")
        assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.prompts == ["one"]


async def test_the_end_of_a_dead_managers_turn_is_told_once(
    executor: Executor, manager: RunnerManager, heard: Heard
) -> None:
    """By the process that settles it; a task that was canceled stays so, and nothing is told of its turn."""
    for task_id in ("t", "u"):
        await executor.tasks.create("alice", "one", task_id=task_id)
        store, now = manager.parts.install.store.tasks, datetime.now(UTC)
        await store.begin_turn(task_id, None, allowed=OPEN_STATES, owner=GONE, at=now)
    await store.move("u", TaskState.CANCELED, reason=None, at=now)
    heard.all.clear()
    assert (await executor.tasks.get("t")).state is TaskState.FAILED
    assert (await executor.tasks.get("u")).owner is None
    assert heard.states == [("t", "failed")]


async def test_a_turn_that_ended_after_its_manager_is_settled_from_the_ledger(
    manager: RunnerManager, house: House
) -> None:
    """Its answer is the task's next message, and nothing is sent again."""
    tasks = Tasks(manager)
    await tasks.create("alice", "one", task_id="t")
    store = manager.parts.install.store
    turn = await store.tasks.begin_turn("t", None, allowed=OPEN_STATES, owner=GONE, at=datetime.now(UTC))
    runner = await manager.get_runner("alice")
    message = Message(role="user", content="one")
    await runner.run(RunRequest(messages=[message], task_id="t", idempotency_key=turn.key))
    task = await tasks.get("t")
    assert (task.state, task.run_id) == (TaskState.WAITING, (await manager.list_runs("alice"))[0].run_id)
    assert [message.content for message in await tasks.messages("t")] == ["one", "ONE"]
    assert house.prompts == ["one"]


async def test_an_unfinished_run_of_a_dead_manager_is_seen_to_its_end(manager: RunnerManager) -> None:
    """A new executor has the ledger's entry settled, then the task."""
    tasks = Tasks(manager)
    await tasks.create("alice", "one", task_id="t")
    store, now = manager.parts.install.store, datetime.now(UTC)
    turn = await store.tasks.begin_turn("t", None, allowed=OPEN_STATES, owner=GONE, at=now)
    await store.enter_run(NewRun("run-1", "alice", "t", GONE, "print", turn.key, None, now), must_be_alone=False)
    assert (await tasks.get("t")).state is TaskState.RUNNING
    async with Executor(manager) as executor:
        failed = await executor.wait("t")
    assert (failed.state, failed.run_id) == (TaskState.FAILED, "run-1")
    assert (await store.get_run("run-1")).state is RunState.ENDED


async def test_a_new_turn_waits_until_it_is_known_how_a_dead_managers_one_ended(
    manager: RunnerManager, house: House
) -> None:
    """It is not refused for a turn that is over, and takes along what that one did not send."""
    async with Executor(manager) as executor:
        await executor.tasks.create("alice", "one", task_id="t")
        store, now = manager.parts.install.store, datetime.now(UTC)
        turn = await store.tasks.begin_turn("t", None, allowed=OPEN_STATES, owner=GONE, at=now)
        await store.enter_run(NewRun("run-1", "alice", "t", GONE, "print", turn.key, None, now), must_be_alone=False)
        await executor.send("t", "two")
        assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.prompts == ["one\ntwo"]


async def test_leaving_the_executor_lets_the_turn_under_way_end(
    manager: RunnerManager, house: House, until: Until
) -> None:
    """One that waits for its place is given up, unsent; afterwards nothing is accepted."""
    house.script([Hold(), Say("done")])
    async with Executor(manager) as executor, anyio.create_task_group() as group:
        for task_id in ("t", "u"):
            await executor.tasks.create("alice", task_id, task_id=task_id)
            await executor.execute(task_id)
        await until(lambda: bool(house.prompts))
        group.start_soon(release_soon, house)
    assert {task.task_id: (task.state, task.owner) for task in await Tasks(manager).list_newest()} == {
        "t": (TaskState.WAITING, None),
        "u": (TaskState.FAILED, None),
    }
    assert house.prompts == ["t"]
    with pytest.raises(ManagerUnusable):
        await executor.send("u", "more")


async def test_an_error_inside_the_executor_aborts_its_turns_and_settles_them(
    manager: RunnerManager, house: House, until: Until
) -> None:
    """The error comes out as it was, and no task is left running."""
    house.script([Hold()])

    async def break_inside() -> None:
        async with Executor(manager) as executor:
            await executor.tasks.create("alice", "one", task_id="t")
            await executor.execute("t")
            await until(lambda: bool(house.prompts))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_inside()
    task = await Tasks(manager).get("t")
    assert (task.state, task.owner) == (TaskState.FAILED, None)


async def test_a_cancellation_aborts_turns_and_settles_them(manager: RunnerManager, house: House, until: Until) -> None:
    """As Ctrl-C does; the task can go on afterwards, and what was sent is not sent again."""
    house.script([Hold()])
    with anyio.CancelScope() as scope:
        async with Executor(manager) as executor:
            await executor.tasks.create("alice", "one", task_id="t")
            await executor.execute("t")
            await until(lambda: bool(house.prompts))
            scope.cancel()
            await executor.wait("t")
    task = await Tasks(manager).get("t")
    assert (task.state, task.owner) == (TaskState.FAILED, None)
    assert (await manager.get_run(task.run_id or "")).state is RunState.ENDED
    async with Executor(manager) as executor:
        await executor.send("t", "two")
        assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.prompts == ["one", "two"]


# --- containers -------------------------------------------------------------------------------------------------------


async def test_an_agents_container_ends_with_its_last_task(
    executor: Executor, manager: RunnerManager, house: House
) -> None:
    """Not before, for the other task wants it; session and files stay, so that a new task starts it again."""
    for task_id in ("t", "u"):
        await executor.tasks.create("alice", task_id, task_id=task_id)
        await executor.execute(task_id)
        await executor.wait(task_id)
    await executor.tasks.complete("t")
    assert (await manager.get_runner("alice")).status == "ready"
    await executor.cancel("u")
    stopped = await manager.get_runner("alice")
    assert (stopped.status, stopped.record.reason) == ("stopped", "its last task, u, is canceled")
    assert house.starts == ["alice"]


async def test_a_container_that_somebody_else_uses_stays(
    executor: Executor, manager: RunnerManager, house: House
) -> None:
    """Another living manager has used it, or somebody holds it."""
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    await executor.wait("t")
    async with house.manager(on_shutdown="leave") as other:
        await other.start_runner("alice")
        await executor.tasks.complete("t")
        assert (await manager.get_runner("alice")).status == "ready"
    await executor.tasks.create("alice", "two", task_id="u")
    await executor.execute("u")
    await executor.wait("u")
    await manager.hold("alice", "somebody", datetime.now(UTC) + timedelta(hours=1))
    await executor.tasks.complete("u")
    assert (await manager.get_runner("alice")).status == "ready"


async def test_an_agent_erased_in_the_middle_of_a_turn_takes_its_task_with_it(
    executor: Executor, manager: RunnerManager, house: House, until: Until
) -> None:
    """The turn ends, nobody waits for ever, and others are done."""
    house.script([Hold()])
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    await until(lambda: bool(house.prompts))
    await manager.delete_runner("alice", delete_workspace=True)
    with pytest.raises(TaskNotFound):
        await executor.wait("t")
    await executor.tasks.create("bob", "two", task_id="u")
    await executor.execute("u")
    assert (await executor.wait("u")).state is TaskState.WAITING
