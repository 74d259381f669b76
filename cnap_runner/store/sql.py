"""The store in a SQL database. Each method is one transaction; what happens in it is in `transactions`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from anyio import to_thread
from typing_extensions import override

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.answers import PendingAnswer
from cnap_runner.model.counts import Counts
from cnap_runner.model.figures import Tally
from cnap_runner.model.hold import Hold
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import (
    AgentRow,
    Entry,
    Intent,
    IsAlive,
    KeptAgent,
    Lease,
    NewRun,
    Store,
    TurnContext,
    Wish,
    WishKind,
)
from cnap_runner.store.database import Database
from cnap_runner.store.sql_tasks import SqlTasks
from cnap_runner.store.transactions import (
    agents,
    counting,
    holds,
    journal,
    keepers,
    leases,
    ledger,
    lives,
    managers,
    places,
    waiting,
    wishes,
)
from cnap_runner.store.upgrade import upgrade

BUSY_TIMEOUT = timedelta(seconds=10)
"""Longest wait for the write lock. Transactions take milliseconds; only a stopped process or a dying disk holds it for longer."""


class SqlStore(Store):
    """The store in one SQLite file, shared by all processes of the install.

    ``is_alive`` arguments are called in the store's own thread. A cancelled call happens whole or not at all. What must outlive a
    power loss (`Database.write`) waits for the disk: agents, reserved starts, prompts about to be sent, results. The rest
    (`Database.write_relaxed`) is about processes and instances that a power loss ends too, and is durable with the next of those.
    """

    def __init__(self, path: Path, *, busy_timeout: timedelta = BUSY_TIMEOUT) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._database = Database(path, busy_timeout=busy_timeout)
        self._tasks = SqlTasks(self._database)

    @override
    async def open(self) -> None:
        await to_thread.run_sync(lambda: upgrade(self._path, busy_timeout=self._busy_timeout))
        await self._database.open()

    @override
    async def aclose(self) -> None:
        await self._database.aclose()

    @override
    async def install_id(self) -> str:
        present = await self._database.read(managers.read_install_id)
        if present is None:
            return await self._database.write(managers.make_install_id)
        return present

    # --- managers ---------------------------------------------------------------------------------------------------

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

    # --- agents -----------------------------------------------------------------------------------------------------

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
    async def list_runners(self, statuses: Collection[RunnerStatus]) -> list[RunnerRecord]:
        return await self._database.read(agents.list_runners, statuses)

    @override
    async def named_instances(self) -> set[str]:
        return await self._database.read(agents.named_instances)

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

    # --- runners ----------------------------------------------------------------------------------------------------

    @override
    async def reserve_start(
        self, record: RunnerRecord, *, manager_id: str, max_containers: int, is_alive: IsAlive | None = None
    ) -> bool:
        return await self._database.write(
            places.reserve_start, record, manager_id=manager_id, max_containers=max_containers, is_alive=is_alive
        )

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

    # --- life cycle -------------------------------------------------------------------------------------------------

    @override
    async def list_kept(self, *, now: datetime, only_due: bool = False) -> list[KeptAgent]:
        return await self._database.read(lives.list_kept, now=now, only_due=only_due)

    @override
    async def next_due(self) -> datetime | None:
        return await self._database.read(lives.next_due)

    @override
    async def set_due(self, record: RunnerRecord, due_at: datetime | None) -> None:
        await self._database.write_relaxed(lives.set_due, record, due_at)

    @override
    async def save_if_free(self, record: RunnerRecord, *, seen: RunnerRecord, manager_id: str, now: datetime) -> bool:
        return await self._database.write_relaxed(lives.save_if_free, record, seen=seen, manager_id=manager_id, now=now)

    @override
    async def count_statuses(self) -> dict[RunnerStatus, int]:
        return await self._database.read(lives.count_statuses)

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

    @override
    async def claim_keeper(self, manager_id: str, is_alive: IsAlive) -> bool:
        return await self._database.write_relaxed(keepers.claim, manager_id, is_alive)

    @override
    async def find_keeper(self, is_alive: IsAlive) -> str | None:
        return await self._database.read(keepers.find, is_alive)

    @override
    async def retire_keeper(self, manager_id: str) -> bool:
        return await self._database.write_relaxed(keepers.retire, manager_id)

    # --- leases and wishes ------------------------------------------------------------------------------------------

    @override
    async def acquire_lease(
        self, agent_id: str, manager_id: str, purpose: str, *, at: datetime, is_alive: IsAlive
    ) -> bool:
        return await self._database.write_relaxed(leases.acquire, Lease(agent_id, manager_id, purpose, at), is_alive)

    @override
    async def release_lease(self, agent_id: str, manager_id: str) -> None:
        await self._database.write_relaxed(leases.release, agent_id, manager_id)

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

    # --- run ledger -------------------------------------------------------------------------------------------------

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

    # --- sessions ---------------------------------------------------------------------------------------------------

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

    # --- pending answers --------------------------------------------------------------------------------------------

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

    # --- decision log -----------------------------------------------------------------------------------------------

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

    # --- counts -----------------------------------------------------------------------------------------------------

    @override
    async def add_counts(self, counts: Counts) -> None:
        await self._database.write_relaxed(counting.add, counts)

    @override
    async def tally(self) -> Tally:
        return await self._database.read(counting.tally)

    @override
    def tally_blocking(self) -> Tally:
        return self._database.read_blocking(counting.tally)

    # --- tasks ------------------------------------------------------------------------------------------------------

    @property
    @override
    def tasks(self) -> SqlTasks:
        return self._tasks
