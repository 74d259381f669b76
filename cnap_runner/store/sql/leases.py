"""Leases and wishes in a SQL database."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import override

from cnap_runner.model.run import RunRecord
from cnap_runner.store.base import IsAlive, Lease, Wish, WishKind
from cnap_runner.store.base.leases import LeaseStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import leases, wishes


class SqlLeases(SqlPart, LeaseStore):
    """Who may change or drive an agent, and what others want of it."""

    @override
    async def acquire_lease(
        self, agent_id: str, manager_id: str, purpose: str, *, at: datetime, is_alive: IsAlive
    ) -> bool:
        return await self._database.write_relaxed(leases.acquire, Lease(agent_id, manager_id, purpose, at), is_alive)

    @override
    async def release_lease(self, agent_id: str, manager_id: str) -> None:
        await self._database.write_relaxed(leases.release, agent_id, manager_id)

    @override
    async def give_back(self, lease: Lease) -> None:
        await self._database.write_relaxed(leases.give_back, lease)

    @override
    async def get_lease(self, agent_id: str) -> Lease | None:
        return await self._database.read(leases.get, agent_id)

    @override
    async def add_wish(self, agent_id: str, kind: WishKind, *, task_id: str | None, at: datetime) -> Wish:
        return await self._database.write_relaxed(wishes.add, agent_id, kind, task_id=task_id, at=at)

    @override
    async def wishes_for(self, run: RunRecord) -> list[Wish]:
        return await self._database.read(wishes.meaning, run)

    @override
    async def drop_wish(self, wish_id: int) -> None:
        await self._database.write_relaxed(wishes.drop, wish_id)
