"""Holds in a SQL database."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import override

from cnap_runner.model.hold import Hold
from cnap_runner.store.base.holds import HoldStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import holds


class SqlHolds(SqlPart, HoldStore):
    """Who holds which agent."""

    @override
    async def put_hold(self, hold: Hold, *, at: datetime) -> None:
        await self._database.write(holds.put, hold, at=at)

    @override
    async def drop_hold(self, agent_id: str, owner: str, *, at: datetime) -> bool:
        return await self._database.write(holds.drop, agent_id, owner, at=at)

    @override
    async def list_holds(self, *, at: datetime) -> list[Hold]:
        return await self._database.read(holds.list_valid, at=at)

    @override
    async def drop_ended_holds(self, *, at: datetime) -> list[Hold]:
        if not await self._database.read(holds.has_over, at=at):
            return []  # most looks find none, and take no write lock
        return await self._database.write_relaxed(holds.drop_over, at=at)
