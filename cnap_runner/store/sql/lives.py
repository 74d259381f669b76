"""The life cycle in a SQL database."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import override

from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import KeptAgent
from cnap_runner.store.base.lives import LifeStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import lives


class SqlLives(SqlPart, LifeStore):
    """When agents are due, and what may end then."""

    @override
    async def list_kept(self, *, now: datetime, only_due: bool = False) -> list[KeptAgent]:
        return await self._database.read(lives.list_kept, now=now, only_due=only_due)

    @override
    async def next_due(self) -> datetime | None:
        return await self._database.read(lives.next_due)

    @override
    async def set_due(self, record: RunnerRecord, due_at: datetime | None) -> None:
        await self._database.write_relaxed(lives.set_due, record, due_at)

    @override
    async def save_if_free(self, record: RunnerRecord, *, seen: RunnerRecord, manager_id: str, now: datetime) -> bool:
        return await self._database.write_relaxed(lives.save_if_free, record, seen=seen, manager_id=manager_id, now=now)

    @override
    async def count_statuses(self) -> dict[RunnerStatus, int]:
        return await self._database.read(lives.count_statuses)
