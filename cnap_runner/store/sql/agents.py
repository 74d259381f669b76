"""Agents in a SQL database."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import override

from cnap_runner.model.agent import AgentSpec
from cnap_runner.store.base import AgentRow
from cnap_runner.store.base.agents import AgentStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import agents


class SqlAgents(SqlPart, AgentStore):
    """What is wanted of agents."""

    @override
    async def put_agent(self, spec: AgentSpec, *, at: datetime, expected: AgentSpec | None = None) -> AgentRow:
        return await self._database.write(agents.put, spec, at=at, expected=expected)

    @override
    async def get_agent(self, agent_id: str) -> AgentRow:
        return await self._database.read(agents.get, agent_id)

    @override
    async def list_agents(self) -> list[AgentRow]:
        return await self._database.read(agents.list_known)

    @override
    async def mark_deleted(self, agent_id: str, *, at: datetime) -> None:
        await self._database.write(agents.mark_deleted, agent_id, at=at)

    @override
    async def list_deleted(self) -> list[AgentRow]:
        return await self._database.read(agents.list_deleted)

    @override
    async def erase_agent(self, agent_id: str) -> None:
        await self._database.write(agents.erase, agent_id)

    @override
    async def erase_deleted(self, agent_id: str) -> bool:
        return await self._database.write(agents.erase_deleted, agent_id)
