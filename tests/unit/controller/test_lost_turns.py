"""Turns that lose whoever drives them while their manager lives: none stays running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import RunnerManager
from cnap_runner.controller import Executor, Tasks
from cnap_runner.controller import drive as drive_module
from cnap_runner.controller import executor as executor_module
from cnap_runner.errors import ManagerUnusable, StoreBusy
from cnap_runner.model.run import RunState
from cnap_runner.model.task import TaskRecord, TaskState, TaskTurn
from cnap_runner.testing.fake_opencode import Hold
from cnap_runner.testing.house import House

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class SlowDesk:
    """Holds the acceptance of turns up, before or after it is written."""

    def __init__(self, manager: RunnerManager, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = anyio.Event()
        self.gate = anyio.Event()
        self.is_written_first = False
        self._begin_turn = manager.parts.install.store.tasks.begin_turn
        monkeypatch.setattr(manager.parts.install.store.tasks, "begin_turn", self._slowly)

    async def _slowly(self, *args: Any, **more: Any) -> TaskTurn:
        turn = await self._begin_turn(*args, **more) if self.is_written_first else None
        self.reached.set()
        await self.gate.wait()
        return turn or await self._begin_turn(*args, **more)


@pytest.fixture
def desk(manager: RunnerManager, monkeypatch: pytest.MonkeyPatch) -> SlowDesk:
    return SlowDesk(manager, monkeypatch)


async def test_a_turn_accepted_while_the_executor_is_left_is_given_up(
    manager: RunnerManager, desk: SlowDesk, house: House
) -> None:
    """It is not sent, its task is not left running, and its place in the line is free again."""
    async with anyio.create_task_group() as group:
        async with Executor(manager) as executor:
            await executor.tasks.create("alice", "one", task_id="t")
            group.start_soon(executor.send, "t")
            await desk.reached.wait()
        desk.gate.set()
    task = await Tasks(manager).get("t")
    assert (task.state, task.owner, task.turns) == (TaskState.FAILED, None, 1)
    assert executor._room.value == manager.parts.install.settings.tasks_at_once + executor_module.BACKLOG
    assert house.prompts == []


async def test_who_waited_for_room_until_the_executor_was_left_is_refused(
    manager: RunnerManager, desk: SlowDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written then."""
    monkeypatch.setattr(executor_module, "BACKLOG", 1 - manager.parts.install.settings.tasks_at_once)
    async with anyio.create_task_group() as group:
        async with Executor(manager) as executor:
            for task_id in ("t", "u"):
                await executor.tasks.create("alice", "one", task_id=task_id)
            group.start_soon(executor.send, "t")
            await desk.reached.wait()
            late = anyio.Event()

            async def refused() -> None:
                with pytest.raises(ManagerUnusable):
                    await executor.send("u")
                late.set()

            group.start_soon(refused)
            await anyio.sleep(0.05)
            assert not late.is_set()
        desk.gate.set()
    assert (await Tasks(manager).get("u")).state is TaskState.PENDING


async def test_a_turn_whose_end_could_not_be_written_is_settled_by_whoever_looks(
    manager: RunnerManager, house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the ledger, though the manager that drove it lives."""

    async def busy(*_: object, **__: object) -> None:
        raise StoreBusy("locked")

    monkeypatch.setattr(drive_module, "LAST_WORDS", timedelta(seconds=0.1))
    house.script([Hold()])
    with monkeypatch.context() as patch, anyio.CancelScope() as scope:
        async with Executor(manager) as executor:
            await executor.tasks.create("alice", "one", task_id="t")
            await executor.execute("t")
            await until(lambda: bool(house.prompts))
            patch.setattr(manager.parts.install.store.tasks, "end_turn", busy)
            scope.cancel()
    task = await Tasks(manager).get("t")
    assert (task.state, task.owner) == (TaskState.FAILED, None)
    assert (await manager.get_run(task.run_id or "")).state is RunState.ENDED


async def test_the_end_of_a_turn_that_is_cut_off_is_written_though_the_store_was_busy_at_first(
    manager: RunnerManager, house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody elsewhere waits for it. Nor does an error that is none of ours keep it from that."""
    store = manager.parts.install.store.tasks
    end_turn, refusals = store.end_turn, [StoreBusy("locked"), ZeroDivisionError(), StoreBusy("locked")]

    async def busy_at_first(*args: Any, **more: Any) -> TaskRecord:
        if refusals:
            raise refusals.pop()
        return await end_turn(*args, **more)

    monkeypatch.setattr(drive_module, "SETTLE_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(store, "end_turn", busy_at_first)
    house.script([Hold()])
    with anyio.CancelScope() as scope:
        async with Executor(manager) as executor:
            await executor.tasks.create("alice", "one", task_id="t")
            await executor.execute("t")
            await until(lambda: bool(house.prompts))
            scope.cancel()
    assert refusals == []
    assert (await store.get("t")).owner is None


async def test_a_turn_written_down_after_its_time_is_settled_and_can_be_asked_for_again(
    executor: Executor, desk: SlowDesk, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nobody who looks takes it for lost; afterwards its message goes with the next turn, once."""
    monkeypatch.setattr(executor_module, "BEGIN_LIMIT", timedelta(seconds=0.3))
    desk.is_written_first = True
    await executor.tasks.create("alice", "one", task_id="t")
    async with anyio.create_task_group() as group:

        async def cut_off() -> None:
            with pytest.raises(StoreBusy):
                await executor.send("t")

        group.start_soon(cut_off)
        await desk.reached.wait()
        assert (await executor.tasks.get("t")).state is TaskState.RUNNING
    assert (await executor.tasks.get("t")).state is TaskState.FAILED
    desk.gate.set()
    await executor.send("t")
    assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.prompts == ["one"]
