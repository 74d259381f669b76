"""Executor: accepts turns of tasks and does them, one at a time per task, a bounded number overall."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from cnap_runner.aio.guarded import keep_running
from cnap_runner.aio.keyed_lock import KeyedLock
from cnap_runner.aio.lone import lone_errors
from cnap_runner.aio.shield import run_shielded
from cnap_runner.controller.drive import Drive
from cnap_runner.controller.driven import driven_by
from cnap_runner.controller.listener import TaskListener
from cnap_runner.controller.tasks import Tasks, checked_prompt
from cnap_runner.errors import ConflictError, ManagerUnusable, StoreBusy
from cnap_runner.model.ids import check_id
from cnap_runner.model.task import TaskEvent, TaskRecord, TaskState
from cnap_runner.runner.manager import RunnerManager
from cnap_runner.telemetry.logging import get_logger

BACKLOG = 100
"""Turns that may be accepted beyond those under way; who asks for more waits until there is room."""
CANCELED_SECONDS = 1.0
"""How often a look is taken at what others canceled, while a turn waits for its place."""
PATIENCE = timedelta(seconds=20)
"""How long a new turn waits for one that a dead manager left: for as long as it takes to find out that it is over, or that it is not."""
BEGIN_LIMIT = timedelta(seconds=30)
"""How long a turn's acceptance may take to be written; the store itself waits for its lock for less."""

_TO_EXECUTE = frozenset({TaskState.PENDING})
_TO_CONTINUE = frozenset({TaskState.PENDING, TaskState.WAITING, TaskState.FAILED})

_log = get_logger(__name__)


class Executor:
    """Does the turns of tasks, on the agents of an open manager. An async context manager; one per manager.

    A turn that was accepted is done in the background. Leaving the context lets the turns under way end, within ``shutdown_timeout``; those
    that wait for their place are given up, unsent. An error or a cancellation aborts them all. Turns that nobody drives any more, as dead
    managers leave them, are settled from the run ledger when it begins, and every ``sweep_interval``.
    """

    def __init__(self, manager: RunnerManager, *, listener: TaskListener | None = None) -> None:
        self._manager = manager
        self._install = manager.parts.install
        self._store = self._install.store.tasks
        self._settings = self._install.settings
        self.tasks = Tasks(manager, listener=listener)
        self._places = anyio.CapacityLimiter(self._settings.tasks_at_once)
        self._agents: KeyedLock[str] = KeyedLock()
        self._room = anyio.Semaphore(self._settings.tasks_at_once + BACKLOG)
        self._drives: dict[str, Drive] = {}
        self._driven = driven_by(manager)
        self._attended: dict[str, anyio.Event] = {}
        """Tasks whose runs nobody drives any more but have not ended, and when that is over."""
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(lone_errors())
            self._group = await stack.enter_async_context(anyio.create_task_group())
            stack.push_async_exit(self._close)
            await self._settle_abandoned()
            self._group.start_soon(self._keep_settling)
            self._group.start_soon(self._keep_leaving_lines)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    # --- what may be asked for ------------------------------------------------------------------------------------------

    async def handle(self, event: TaskEvent) -> TaskRecord:
        """Do what an event asks for and return the task; a turn it asks for goes on in the background.

        Raises as the method of that name does. ``execute`` of a task that is there already, pending and with the same agent and prompt as
        far as the event names them, begins it: an event may be delivered again. With others it is a `ConflictError`.
        """
        match event.type:
            case "execute":
                await self._make(event)
                return await self.execute(event.task_id)
            case "continue":
                return await self.send(event.task_id, event.prompt)
            case "cancel":
                return await self.cancel(event.task_id)
            case "complete":
                return await self.tasks.complete(event.task_id)

    async def execute(self, task_id: str) -> TaskRecord:
        """Begin a pending task. Raises as `send`, and `ConflictError` for one that was begun before."""
        return await self._begin(task_id, None, _TO_EXECUTE)

    async def send(self, task_id: str, prompt: str | None = None) -> TaskRecord:
        """Accept one more turn of a task and return at once; without a prompt it sends what certainly was not sent yet.

        A turn that a dead manager left is seen to its end first, if that is soon. Raises before anything is changed: `TaskNotFound`,
        `RunnerNotFound`, `RunInProgress` while a turn of the task is under way, `InvalidTransition` for one that is over, `InvalidInput`
        where there is nothing to send.
        """
        return await self._begin(task_id, prompt, _TO_CONTINUE)

    async def cancel(self, task_id: str) -> TaskRecord:
        """Cancel a task as `Tasks.cancel` does; a turn of it that waits for its place here leaves the line at once."""
        task = await self.tasks.mark_canceled(task_id)
        if (drive := self._drives.get(task_id)) is not None:
            drive.give_up_waiting()
        ended = await self.tasks.end_canceled(task)
        if drive is not None:
            await drive.ended.wait()
        return ended

    async def wait(self, task_id: str) -> TaskRecord:
        """Wait until no turn of a task is under way, whoever drives it, and return the task."""
        if (drive := self._drives.get(check_id(task_id))) is not None:
            await drive.ended.wait()
        return await self.tasks.until_driven_by_nobody(task_id)

    # --- inside ---------------------------------------------------------------------------------------------------------

    async def _make(self, event: TaskEvent) -> None:
        """Make the task that an event describes; one that is there already must be that one."""
        if event.agent_id is not None:
            with suppress(ConflictError):
                await self.tasks.create(event.agent_id, event.prompt, task_id=event.task_id)
                return
        elif event.prompt is None:
            return
        task = await self.tasks.get(event.task_id)
        first = [message.content for message in await self.tasks.messages(event.task_id)][:1]
        if event.agent_id not in {None, task.agent_id} or (event.prompt is not None and first != [event.prompt]):
            raise ConflictError(
                f"Task {event.task_id} was made with another agent or prompt.",
                hint="Continue it, or choose another id.",
            )

    async def _begin(self, task_id: str, prompt: str | None, allowed: Collection[TaskState]) -> TaskRecord:
        self._opened()
        text = None if prompt is None else checked_prompt(prompt)
        await self._settle_abandoned()
        if (attended := self._attended.get(check_id(task_id))) is not None:
            with anyio.move_on_after(PATIENCE.total_seconds()):
                await attended.wait()
        await self._room.acquire()
        self._driven.claim(task_id)
        begun: list[TaskRecord] = []

        async def begin() -> None:
            group = self._opened()  # who waited for room may find it left
            turn = await self._store.begin_turn(
                task_id, text, allowed=allowed, owner=self._install.manager_id, at=self._install.now()
            )
            drive = self._drives[task_id] = Drive(self._manager, turn, self.tasks.news)
            begun.append(turn.task)
            if self._group is group:
                group.start_soon(self._drive, drive, turn.task)
            else:  # left while it was written: given up like any turn that waits for its place
                drive.give_up_waiting()
                await self._drive(drive, turn.task)

        try:
            # Whole or not at all: what is written down has a driver, however often the caller is cancelled.
            await run_shielded(begin, limit=BEGIN_LIMIT)
        finally:
            if not begun:
                self._give_back(task_id)
        if not begun:
            raise StoreBusy(f"The turn of task {task_id} could not be written down within {BEGIN_LIMIT}.")
        return begun[0]

    async def _drive(self, drive: Drive, task: TaskRecord) -> None:
        try:
            await drive.run(self._place(task.agent_id))
        finally:
            if self._drives.get(task.task_id) is drive:
                del self._drives[task.task_id]
            self._give_back(task.task_id)

    def _give_back(self, task_id: str) -> None:
        """Let go of a turn. If it is written down all the same, or its end is not, whoever looks next settles it."""
        self._driven.drop(task_id)
        self._room.release()

    @asynccontextmanager
    async def _place(self, agent_id: str) -> AsyncIterator[None]:
        """One of the places. An agent's tasks take one together, for it does one turn at a time: waiting for each other they need none."""
        async with self._agents.holding(agent_id), self._places:
            yield

    async def _keep_settling(self) -> None:
        async def settle() -> None:
            while True:
                await anyio.sleep(self._settings.sweep_interval.total_seconds())
                await self._settle_abandoned()

        await keep_running(settle, failed=lambda error: _log.warning("settling_failed", error=str(error)))

    async def _keep_leaving_lines(self) -> None:
        """Take turns out of the line whose tasks another process canceled: they have no run yet that it could abort."""

        async def leave() -> None:
            while True:
                await anyio.sleep(CANCELED_SECONDS)
                if not any(drive.is_waiting for drive in self._drives.values()):
                    continue
                for task_id in await self._store.canceled_turns(self._install.manager_id):
                    if (drive := self._drives.get(task_id)) is not None:
                        drive.give_up_waiting()

        await keep_running(leave, failed=lambda error: _log.warning("canceled_not_looked_for", error=str(error)))

    async def _settle_abandoned(self) -> None:
        for task in await self.tasks.settle():
            if self._group is not None and task.task_id not in self._attended:
                over = self._attended[task.task_id] = anyio.Event()
                self._group.start_soon(self._attend, task, over)

    async def _attend(self, task: TaskRecord, over: anyio.Event) -> None:
        """See a run that nobody drives any more to its end, then settle its task."""
        try:
            noted = await self._store.note_run(task.task_id, owner=task.owner or "")
            await self._manager.wait_run(noted.run_id or "")
            await self.tasks.settle()
        except Exception as error:  # noqa: BLE001 - one task that cannot be settled must not end the others' turns
            _log.warning("task_not_settled", task_id=task.task_id, error=str(error))
        finally:
            del self._attended[task.task_id]
            over.set()

    def _opened(self) -> TaskGroup:
        if self._group is None:
            raise ManagerUnusable(
                "The executor is not open.", hint="Use it inside `async with Executor(…) as executor:`."
            )
        return self._group

    async def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let turns under way end, or end them where an error or a cancellation leads here. Within ``shutdown_timeout``."""
        group, self._group = self._group, None
        if group is None:
            return
        try:
            if kind is None:
                drives = list(self._drives.values())
                for drive in drives:
                    drive.give_up_waiting()
                with anyio.move_on_after(self._settings.shutdown_timeout.total_seconds()):
                    for drive in drives:
                        await drive.ended.wait()
        finally:
            group.cancel_scope.cancel()
