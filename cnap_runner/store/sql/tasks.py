"""Tasks in a SQL database."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from typing_extensions import override

from cnap_runner.model.task import TaskMessage, TaskRecord, TaskState, TaskTurn
from cnap_runner.store.base.tasks import IsDriven, TaskStore
from cnap_runner.store.database import Database
from cnap_runner.store.transactions import tasks


class SqlTasks(TaskStore):
    """The tasks of a `SqlStore`, which opens and closes the database.

    What somebody said and what was decided outlives a power loss. How a turn ended is written relaxed: it is in the ledger, and is
    settled from there once more.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def create(self, task_id: str, agent_id: str, prompt: str | None, *, at: datetime) -> TaskRecord:
        return await self._database.write(tasks.create, task_id, agent_id, prompt, at=at)

    @override
    async def begin_turn(
        self, task_id: str, prompt: str | None, *, allowed: Collection[TaskState], owner: str, at: datetime
    ) -> TaskTurn:
        return await self._database.write(tasks.begin_turn, task_id, prompt, allowed=allowed, owner=owner, at=at)

    @override
    async def note_run(self, task_id: str, *, owner: str) -> TaskRecord:
        return await self._database.write_relaxed(tasks.note_run, task_id, owner=owner)

    @override
    async def end_turn(self, task_id: str, *, owner: str, reason: str, at: datetime) -> TaskRecord:
        return await self._database.write_relaxed(tasks.end_turn, task_id, owner=owner, reason=reason, at=at)

    @override
    async def settle_turns(self, is_driven: IsDriven, *, reason: str, at: datetime) -> list[TaskRecord]:
        if not await self._database.read(tasks.has_abandoned, is_driven):
            return []  # a look at tasks takes no write lock, as a rule
        return await self._database.write_relaxed(tasks.settle_turns, is_driven, reason=reason, at=at)

    @override
    async def canceled_turns(self, owner: str) -> list[str]:
        return await self._database.read(tasks.canceled_turns, owner)

    @override
    async def move(self, task_id: str, state: TaskState, *, reason: str | None, at: datetime) -> TaskRecord | None:
        return await self._database.write(tasks.move, task_id, state, reason=reason, at=at)

    @override
    async def get(self, task_id: str) -> TaskRecord:
        return await self._database.read(tasks.get, task_id)

    @override
    async def list_newest(
        self, agent_id: str | None = None, *, states: Collection[TaskState] | None = None, limit: int = 1000
    ) -> list[TaskRecord]:
        return await self._database.read(tasks.list_newest, agent_id, states=states, limit=limit)

    @override
    async def messages(self, task_id: str) -> list[TaskMessage]:
        return await self._database.read(tasks.messages, task_id)
