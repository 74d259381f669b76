"""The decision log in a SQL database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from typing_extensions import override

from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.store.base.journal import JournalStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import journal


class SqlJournal(SqlPart, JournalStore):
    """What was decided of agents, and why."""

    @override
    async def add_decision(self, decision: Decision) -> None:
        await self._database.write_relaxed(journal.add, decision)

    @override
    async def list_decisions(self, agent_id: str, *, limit: int = 100) -> list[Decision]:
        return await self._database.read(journal.list_newest, agent_id, limit=limit)

    @override
    async def count_decisions(self, agent_id: str, kinds: Sequence[DecisionKind], *, since: datetime) -> int:
        return await self._database.read(journal.count_since, agent_id, kinds, since)

    @override
    async def decision_totals(self) -> dict[DecisionKind, int]:
        return await self._database.read(journal.totals)
