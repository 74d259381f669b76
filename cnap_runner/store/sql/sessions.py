"""Sessions in a SQL database."""

from __future__ import annotations

from typing_extensions import override

from cnap_runner.store.base import TurnContext
from cnap_runner.store.base.sessions import SessionStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import agents


class SqlSessions(SqlPart, SessionStore):
    """Which session a task has."""

    @override
    async def turn_context(self, agent_id: str, task_id: str) -> TurnContext:
        return await self._database.read(agents.turn_context, agent_id, task_id)

    @override
    async def session_of(self, agent_id: str, task_id: str) -> str | None:
        return await self._database.read(agents.session_of, agent_id, task_id)

    @override
    async def sessions_of(self, agent_id: str) -> dict[str, str]:
        return await self._database.read(agents.sessions_of, agent_id)

    @override
    async def set_session(self, agent_id: str, task_id: str, session_id: str | None) -> None:
        await self._database.write_relaxed(agents.set_session, agent_id, task_id, session_id)
