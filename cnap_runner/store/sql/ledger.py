"""The run ledger in a SQL database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from typing_extensions import override

from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.store.base import Entry, Intent, IsAlive, NewRun, Wish
from cnap_runner.store.base.ledger import LedgerStore
from cnap_runner.store.sql.part import SqlPart
from cnap_runner.store.transactions import ledger


class SqlLedger(SqlPart, LedgerStore):
    """All runs in the order of their places."""

    @override
    async def enter_run(
        self, new: NewRun, *, must_be_alone: bool, is_alive: IsAlive | None = None, intent: Intent | None = None
    ) -> Entry:
        write = self._database.write_relaxed if intent is None else self._database.write
        return await write(ledger.enter_and_claim, new, must_be_alone=must_be_alone, is_alive=is_alive, intent=intent)

    @override
    async def queue_of(self, agent_id: str) -> list[RunRecord]:
        return await self._database.read(ledger.queue_of, agent_id)

    @override
    async def claim_turn(self, run: RunRecord, *, at: datetime, is_alive: IsAlive) -> bool:
        return await self._database.write_relaxed(ledger.claim_turn, run, at=at, is_alive=is_alive)

    @override
    async def take_over(self, run: RunRecord, *, manager_id: str, at: datetime, is_alive: IsAlive) -> RunRecord | None:
        return await self._database.write_relaxed(
            ledger.take_over, run, manager_id=manager_id, at=at, is_alive=is_alive
        )

    @override
    async def mark_sending(
        self,
        run: RunRecord,
        *,
        session_id: str,
        instance_id: str,
        after_message_id: str | None,
        runner: RunnerRecord | None = None,
        at: datetime,
    ) -> RunRecord | Wish:
        columns = ledger.sending_columns(session_id, instance_id, after_message_id, at)
        return await self._database.write(ledger.mark_sending, run, columns, runner=runner)

    @override
    async def mark_resuming(
        self, run: RunRecord, *, instance_id: str, resumed_after: str | None, runner: RunnerRecord | None = None
    ) -> RunRecord | Wish:
        columns = {"instance_id": instance_id, "resumed_after": resumed_after}
        return await self._database.write(ledger.mark_resuming, run, columns, runner=runner)

    @override
    async def mark_running(self, run: RunRecord) -> tuple[RunRecord, list[Wish]]:
        return await self._database.write_relaxed(ledger.mark_running, run)

    @override
    async def finish_run(
        self, run: RunRecord, result: RunResult, *, runner: RunnerRecord | None, at: datetime
    ) -> RunRecord:
        return await self._database.write(ledger.finish, run, result, runner=runner, at=at)

    @override
    async def get_run(self, run_id: str) -> RunRecord:
        return await self._database.read(ledger.get, run_id)

    @override
    async def list_runs(
        self, agent_id: str | None = None, *, states: Sequence[RunState] | None = None, limit: int = 1000
    ) -> list[RunRecord]:
        return await self._database.read(ledger.list_newest, agent_id, states=states, limit=limit)
