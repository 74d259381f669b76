"""Counts in a SQL database."""

from __future__ import annotations

from typing_extensions import override

from cnap_runner.model.counts import Counts
from cnap_runner.model.figures import Tally
from cnap_runner.store.base.counting import CountingStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import counting


class SqlCounting(SqlPart, CountingStore):
    """What is counted."""

    @override
    async def add_counts(self, counts: Counts) -> None:
        await self._database.write_relaxed(counting.add, counts)

    @override
    async def tally(self) -> Tally:
        return await self._database.read(counting.tally)

    @override
    def tally_blocking(self) -> Tally:
        return self._database.read_blocking(counting.tally)
