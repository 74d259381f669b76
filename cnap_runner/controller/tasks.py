"""Tasks: what everybody may do with them, in whatever process. Their turns are done by `cnap_runner.controller.executor`."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import cache

import anyio

from cnap_runner.controller.driven import driven_by
from cnap_runner.controller.letting_go import let_go
from cnap_runner.controller.listener import News, TaskListener
from cnap_runner.errors import InvalidInput, RunnerNotFound
from cnap_runner.model.ids import check_id, new_id
from cnap_runner.model.run import Message
from cnap_runner.model.task import TaskMessage, TaskRecord, TaskState
from cnap_runner.runner.manager import RunnerManager

GAVE_UP = "Whatever drove its turn ended before the prompt was sent."
LOOK_AGAIN_SECONDS = 0.2

_BUSY_STATES = frozenset({TaskState.PENDING, TaskState.RUNNING, TaskState.WAITING})
"""States in which a task still wants its agent's container. A failed one may lie about for ever."""
_SETTLED_STATES = frozenset({TaskState.WAITING, TaskState.FAILED})
"""States that the end of a turn brings about. A task that was canceled stays so, which was told then."""


class Tasks:
    """The tasks of an install. Cheap; holds no resource.

    Methods that take a ``task_id`` raise `InvalidInput` for one that is none, and `TaskNotFound` for one that is not known or deleted.
    Whatever looks at tasks first settles, from the run ledger, the turns that nobody drives any more and whose runs have ended: those of
    dead managers, and those of this one that lost their driver.
    """

    def __init__(self, manager: RunnerManager, *, listener: TaskListener | None = None) -> None:
        self._manager = manager
        self._install = manager.parts.install
        self._store = self._install.store.tasks
        self._driven = driven_by(manager)
        self.news = News(listener, self._install.manager_id)

    async def create(self, agent_id: str, prompt: str | None = None, *, task_id: str | None = None) -> TaskRecord:
        """Make a task of a known agent; starts nothing. Without ``task_id`` one is made.

        ``prompt`` is what its first turn sends. Raises `RunnerNotFound`, and `ConflictError` for an id that was used before, by a deleted
        task too.
        """
        task_id = new_id("task") if task_id is None else check_id(task_id)
        text = None if prompt is None else checked_prompt(prompt)
        task = await self._store.create(task_id, check_id(agent_id), text, at=self._install.now())
        await self.news.changed(task)
        return task

    async def get(self, task_id: str) -> TaskRecord:
        """Return one task as it stands."""
        await self.settle()
        return await self._store.get(check_id(task_id))

    async def list_newest(
        self, agent_id: str | None = None, *, states: Collection[TaskState] | None = None, limit: int = 1000
    ) -> list[TaskRecord]:
        """Return tasks, newest first; without ``states`` all but the deleted ones."""
        await self.settle()
        wanted = None if agent_id is None else check_id(agent_id)
        return await self._store.list_newest(wanted, states=states, limit=limit)

    async def messages(self, task_id: str) -> list[TaskMessage]:
        """Return what was said in a task, in order. Each answer names its run, which is in the ledger with its whole result."""
        await self.settle()
        return await self._store.messages(check_id(task_id))

    async def cancel(self, task_id: str, reason: str = "somebody canceled it") -> TaskRecord:
        """End a task that is not completed: its turn is aborted, whoever drives it, and no other follows. Canceled already: makes sure of it.

        Returns when the turn has ended: one that waits for its place in another process, within about a second. Raises `InvalidTransition` for a completed task.
        """
        return await self.end_canceled(await self.mark_canceled(task_id, reason))

    async def mark_canceled(self, task_id: str, reason: str = "somebody canceled it") -> TaskRecord:
        """Do the first half of `cancel`: write that a task is canceled, and leave its turn alone. Raises as `cancel`."""
        return await self._move(task_id, TaskState.CANCELED, reason)

    async def end_canceled(self, task: TaskRecord) -> TaskRecord:
        """Do the second half of `cancel`: abort the turn, wait until it has ended, and let the agent's container go."""
        if task.owner is not None:
            with suppress(RunnerNotFound):  # its agent was deleted, and with it its runs have ended
                await (await self._manager.get_runner(task.agent_id)).abort(task.task_id)
            task = await self.until_driven_by_nobody(task.task_id)
        await self._let_go(task)
        return task

    async def until_driven_by_nobody(self, task_id: str) -> TaskRecord:
        """Wait until no turn of a task is under way, whoever drives it, and return the task."""
        while (task := await self.get(task_id)).owner is not None:
            await anyio.sleep(LOOK_AGAIN_SECONDS)
        return task

    async def complete(self, task_id: str) -> TaskRecord:
        """Say that a task is done. Completed already: nothing happens. Raises `InvalidTransition` unless its last turn succeeded.

        The last task of an agent that is done lets its container go; session and files stay.
        """
        await self.settle()
        task = await self._move(task_id, TaskState.COMPLETED, None)
        await self._let_go(task)
        return task

    async def delete(self, task_id: str) -> None:
        """Hide a task that is not running; its id is never used again. Raises `InvalidTransition` while it runs."""
        await self.settle()
        await self._move(task_id, TaskState.DELETED, None)

    async def settle(self) -> list[TaskRecord]:
        """Settle the turns that nobody drives and whose runs have ended, and tell of them; return the tasks whose runs have not."""
        is_alive = cache(self._install.is_alive)

        def is_driven(task: TaskRecord) -> bool:
            if task.owner == self._install.manager_id:
                return task.task_id in self._driven
            return is_alive(task.owner or "")

        found = await self._store.settle_turns(is_driven, reason=GAVE_UP, at=self._install.now())
        for task in found:
            if task.owner is None and task.state in _SETTLED_STATES:
                await self.news.changed(task)
        return [task for task in found if task.owner is not None]

    async def _move(self, task_id: str, state: TaskState, reason: str | None) -> TaskRecord:
        task = await self._store.move(check_id(task_id), state, reason=reason, at=self._install.now())
        if task is None:
            return await self._store.get(task_id)
        await self.news.changed(task)
        return task

    async def _let_go(self, task: TaskRecord) -> None:
        if not await self._store.list_newest(task.agent_id, states=_BUSY_STATES, limit=1):
            await let_go(self._manager.parts, task)


def checked_prompt(prompt: str) -> str:
    """Return a prompt unchanged, or raise `InvalidInput` for one that cannot be sent or kept."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InvalidInput("The prompt is not text that UTF-8 can hold.") from None
    return Message(role="user", content=prompt).content
