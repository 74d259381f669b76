"""Tasks of the controller. A part of its own: `Store.tasks`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from datetime import datetime

from cnap_runner.model.task import TaskMessage, TaskRecord, TaskState, TaskTurn

IsDriven = Callable[[TaskRecord], bool]
"""Whether somebody drives the turn of a task that has an owner. Called as `IsAlive` is."""


class TaskStore(ABC):
    """What is known of tasks. Methods that take a ``task_id`` raise `TaskNotFound` for one that is not known, erased with its agent, or
    deleted; those that end a turn find a deleted one too."""

    @abstractmethod
    async def create(self, task_id: str, agent_id: str, prompt: str | None, *, at: datetime) -> TaskRecord:
        """Write a pending task and, where there is one, its first message.

        Raises `RunnerNotFound`, and `ConflictError` where the id was used before, by a deleted task too.
        """

    @abstractmethod
    async def begin_turn(
        self, task_id: str, prompt: str | None, *, allowed: Collection[TaskState], owner: str, at: datetime
    ) -> TaskTurn:
        """Go from one of the allowed states to running, driven by ``owner``, with what is to be sent; all or nothing.

        Raises `RunInProgress` while a turn is under way, `InvalidTransition` in any other state that is not allowed, `InvalidInput`
        where there is nothing to send, and `RunnerNotFound`.
        """

    @abstractmethod
    async def note_run(self, task_id: str, *, owner: str) -> TaskRecord:
        """Remember the run of the owner's turn, which is in the ledger by now; return the task. Not the owner's turn: nothing happens."""

    @abstractmethod
    async def end_turn(self, task_id: str, *, owner: str, reason: str, at: datetime) -> TaskRecord:
        """Settle the owner's turn from the run ledger; return the task as it then is. Settled already: nothing happens.

        A run that ended makes the task waiting or failed, unless it was canceled meanwhile, and its output the next message. No run
        makes it failed for this ``reason``. A run that has not ended yet changes nothing: the task still has its owner, then.
        """

    @abstractmethod
    async def settle_turns(self, is_driven: IsDriven, *, reason: str, at: datetime) -> list[TaskRecord]:
        """Settle the turns that nobody drives, as `end_turn` does; return their tasks as they then are.

        One whose run has not ended yet still has its owner. Each is returned without one once: by whoever settled it.
        """

    @abstractmethod
    async def canceled_turns(self, owner: str) -> list[str]:
        """Return the ids of the tasks that were canceled, maybe deleted, and whose turn this owner has not ended yet."""

    @abstractmethod
    async def move(self, task_id: str, state: TaskState, *, reason: str | None, at: datetime) -> TaskRecord | None:
        """Cancel, complete or delete a task, and return it. In that state already: nothing happens; None. Raises `InvalidTransition`."""

    @abstractmethod
    async def get(self, task_id: str) -> TaskRecord:
        """Return one task."""

    @abstractmethod
    async def list_newest(
        self, agent_id: str | None = None, *, states: Collection[TaskState] | None = None, limit: int = 1000
    ) -> list[TaskRecord]:
        """Return tasks, newest first; without ``states`` all but the deleted ones."""

    @abstractmethod
    async def messages(self, task_id: str) -> list[TaskMessage]:
        """Return what was said in a task, in order."""
