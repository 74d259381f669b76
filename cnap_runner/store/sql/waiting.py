"""Pending answers in a SQL database."""

from __future__ import annotations

from typing_extensions import override

from cnap_runner.model.answers import PendingAnswer
from cnap_runner.store.base.waiting import WaitingStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import waiting


class SqlWaiting(SqlPart, WaitingStore):
    """What waits for a reply."""

    @override
    async def add_pending(self, pending: PendingAnswer) -> PendingAnswer:
        return await self._database.write_relaxed(waiting.add, pending)

    @override
    async def get_pending(self, request_id: str) -> PendingAnswer | None:
        return await self._database.read(waiting.get, request_id)

    @override
    async def list_pending(self, agent_id: str | None = None) -> list[PendingAnswer]:
        return await self._database.read(waiting.list_all, agent_id)

    @override
    async def count_pending(self) -> dict[str, int]:
        return await self._database.read(waiting.count)

    @override
    async def drop_pending(self, request_id: str) -> None:
        await self._database.write_relaxed(waiting.drop, request_id)
