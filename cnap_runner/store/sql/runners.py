"""Runners' records in a SQL database."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from typing_extensions import override

from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import IsAlive
from cnap_runner.store.base.runners import RunnerStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import agents, places


class SqlRunners(SqlPart, RunnerStore):
    """Which instances agents have."""

    @override
    async def list_runners(self, statuses: Collection[RunnerStatus]) -> list[RunnerRecord]:
        return await self._database.read(agents.list_runners, statuses)

    @override
    async def named_instances(self) -> set[str]:
        return await self._database.read(agents.named_instances)

    @override
    async def reserve_start(
        self,
        record: RunnerRecord,
        *,
        manager_id: str,
        max_containers: int,
        at: datetime,
        is_alive: IsAlive | None = None,
    ) -> bool:
        return await self._database.write(
            places.reserve_start,
            record,
            manager_id=manager_id,
            max_containers=max_containers,
            at=at,
            is_alive=is_alive,
        )

    @override
    async def still_waits(self, agent_id: str, manager_id: str, *, at: datetime) -> None:
        await self._database.write_relaxed(places.still_waits, agent_id, manager_id, at=at)

    @override
    async def list_waiting(self, is_alive: IsAlive, *, at: datetime) -> list[str]:
        return await self._database.read(places.waiting, is_alive, at=at)

    @override
    async def save_runner(self, record: RunnerRecord, *, manager_id: str) -> None:
        await self._database.write_relaxed(agents.save_runner, record, manager_id=manager_id)

    @override
    async def note_death(self, agent_id: str, instance_id: str, *, reason: str, at: datetime) -> bool:
        return await self._database.write_relaxed(agents.note_death, agent_id, instance_id, reason=reason, at=at)

    @override
    async def give_up(self, agent_id: str, *, at: datetime) -> bool:
        return await self._database.write(agents.give_up, agent_id, at=at)

    @override
    async def forgive(self, agent_id: str, *, at: datetime) -> bool:
        return await self._database.write(agents.forgive, agent_id, at=at)
