"""Managers and keepers in a SQL database."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import override

from cnap_runner.store.base import IsAlive
from cnap_runner.store.base.managers import ManagerStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import keepers, managers


class SqlManagers(SqlPart, ManagerStore):
    """Managers that live, what they use, and the keeper."""

    @override
    async def register_manager(self, manager_id: str, *, pid: int, at: datetime) -> None:
        await self._database.write_relaxed(managers.register, manager_id, pid=pid, at=at)

    @override
    async def forget_dead_managers(self, is_alive: IsAlive) -> list[str]:
        return await self._database.write_relaxed(managers.forget_dead, is_alive)

    @override
    async def note_use(self, manager_id: str, agent_id: str) -> None:
        await self._database.write_relaxed(managers.note_use, manager_id, agent_id)

    @override
    async def end_use(self, manager_id: str, agent_id: str, is_alive: IsAlive) -> bool:
        return await self._database.write_relaxed(managers.end_use, manager_id, agent_id, is_alive)

    @override
    async def sign_off(self, manager_id: str, is_alive: IsAlive) -> list[str]:
        return await self._database.write_relaxed(managers.sign_off, manager_id, is_alive)

    @override
    async def claim_keeper(self, manager_id: str, is_alive: IsAlive) -> bool:
        return await self._database.write_relaxed(keepers.claim, manager_id, is_alive)

    @override
    async def find_keeper(self, is_alive: IsAlive) -> str | None:
        return await self._database.read(keepers.find, is_alive)

    @override
    async def retire_keeper(self, manager_id: str) -> bool:
        return await self._database.write_relaxed(keepers.retire, manager_id)
