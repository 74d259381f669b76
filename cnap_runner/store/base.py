"""The contract of the store: what is known of an install, shared by all its managers.

Promises that hold for every method:

- Each is one transaction; one that decides (capacity, queue place, lease, key) holds the write lock from its first read.
- An entry's owner and state are compared before it is changed; `LeaseLost` when they are not what the caller believes.
- It never blocks the event loop, and no lock is held while something else is awaited.
- ``is_alive`` arguments tell whether a manager's process still lives; they are called inside the transaction, maybe in another
  thread, must not block, and must not raise. A manager that is not alive owns nothing: its leases are void.
- `StoreBusy` may come from any method.

A run's owner may be dead. `Store` never ends such an entry by itself: `take_over` gives it to a living manager, which finds out
what became of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.answers import PendingAnswer
from cnap_runner.model.counts import Counts
from cnap_runner.model.decisions.life import Standing
from cnap_runner.model.figures import Tally
from cnap_runner.model.hold import Hold
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.specs import StoredSpec
from cnap_runner.store.tasks import TaskStore

IsAlive = Callable[[str], bool]


class WishKind(StrEnum):
    """What somebody wants of an agent whose lease another manager holds."""

    STOP = "stop"
    DELETE = "delete"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Wish:
    """Something wanted of the lease's holder, or of a waiting run's owner."""

    wish_id: int
    agent_id: str
    kind: WishKind
    task_id: str | None
    """For ``abort``: the task whose unfinished runs are meant; None: all of the agent."""
    upto_place: int
    """Only runs whose ledger place is not higher are meant: later ones were asked for after the wish."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent as the store knows it."""

    stored: StoredSpec
    runner: RunnerRecord
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    last_active_at: datetime | None = None
    """When its last turn ended."""
    gave_up_at: datetime | None = None
    """Since when nothing is started for it, because its instances crash again and again; None: it may be started."""
    forgiven_at: datetime | None = None
    """Crashes before this moment do not count."""

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        return self.runner.agent_id

    @property
    def spec(self) -> AgentSpec:
        """What is wanted of the agent; read when it is first looked into."""
        return self.stored.spec

    @property
    def model(self) -> str:
        """The agent's model, without reading the rest of its spec."""
        return self.stored.model


@dataclass(frozen=True, slots=True)
class KeptAgent:
    """An agent with a live instance, as its keeper sees it."""

    agent: AgentRow
    standing: Standing


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to change or drive one agent."""

    agent_id: str
    manager_id: str
    purpose: str
    """``run:<run id>``, ``stop``, ``start``, ``delete`` …"""
    acquired_at: datetime


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be entered into the ledger."""

    run_id: str
    agent_id: str
    task_id: str
    owner: str
    fingerprint: str
    idempotency_key: str | None
    model: str | None
    created_at: datetime
    on_interrupt: str = "fail"


class Admission(StrEnum):
    """What became of a run that asked for its entry."""

    ENTERED = "entered"
    """A new entry at the end of the queue, or one that ended as ``not_sent`` queued again under its key."""
    ATTACHED = "attached"
    """An entry with this key and fingerprint is there, finished or not."""


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What a turn begins with."""

    agent: AgentRow
    session_id: str | None
    """The OpenCode session of the task, if it has one."""


@dataclass(frozen=True, slots=True)
class Intent:
    """Where a prompt is to be sent, if nobody ended a turn of the agent since the caller did."""

    session_id: str
    instance_id: str
    after_message_id: str | None
    last_active_at: datetime

    def holds(self, context: TurnContext) -> bool:
        """Whether it is still so, as far as the store knows."""
        agent = context.agent
        return (
            agent.runner.status is RunnerStatus.READY
            and agent.runner.instance_id == self.instance_id
            and agent.last_active_at == self.last_active_at
            and context.session_id == self.session_id
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """The ledger's answer to a run that asked for its entry."""

    admission: Admission
    run: RunRecord
    context: TurnContext | None = None
    """Given where the turn was claimed together with the entry, as it was under the lease, before this run changed anything."""


class Store(ABC):
    """What is known of an install. Used from one event loop; an async context is opened with `open`."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and bring the schema to this version (the caller holds ``install.lock``). Raises `StoreTooNew`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect. Idempotent."""

    @abstractmethod
    async def install_id(self) -> str:
        """Give the install's id, 12 characters of ``[a-z0-9]``; made at the first call and the same for ever."""

    # --- managers ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def register_manager(self, manager_id: str, *, pid: int, at: datetime) -> None:
        """Write a manager's row. Its lock file is held already."""

    @abstractmethod
    async def forget_dead_managers(self, is_alive: IsAlive) -> list[str]:
        """Drop rows, leases and agent uses of managers that are not alive; return their ids. Their run entries stay as they are."""

    @abstractmethod
    async def note_use(self, manager_id: str, agent_id: str) -> None:
        """Remember that this manager uses the agent. Idempotent."""

    @abstractmethod
    async def end_use(self, manager_id: str, agent_id: str, is_alive: IsAlive) -> bool:
        """Forget that this manager uses the agent, and tell whether no other living manager uses it. Idempotent."""

    @abstractmethod
    async def sign_off(self, manager_id: str, is_alive: IsAlive) -> list[str]:
        """Drop the manager's row, leases and uses; return the agents it used that no other living manager uses."""

    # --- agents -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def put_agent(self, spec: AgentSpec, *, at: datetime, expected: AgentSpec | None = None) -> AgentRow:
        """Create an agent or replace a known one's whole spec; one that was deleted comes back. Return its row.

        With ``expected`` nothing is written unless that is the agent's present spec: else raises `ConflictError`, and `RunnerNotFound`
        where it is not known any more.
        """

    @abstractmethod
    async def get_agent(self, agent_id: str) -> AgentRow:
        """Return an agent's row; raises `RunnerNotFound`, for a deleted one too."""

    @abstractmethod
    async def list_agents(self) -> list[AgentRow]:
        """Return all agents that are not deleted, by id."""

    @abstractmethod
    async def list_runners(self, statuses: Collection[RunnerStatus]) -> list[RunnerRecord]:
        """Return the runners' records of the agents that are not deleted and have one of these statuses, by agent's id."""

    @abstractmethod
    async def named_instances(self) -> set[str]:
        """Return the ids of the instances that runners' records name, of agents that are not deleted."""

    @abstractmethod
    async def mark_deleted(self, agent_id: str, *, at: datetime) -> None:
        """Mark an agent deleted. Unknown or deleted already: nothing happens. Its ledger stays."""

    @abstractmethod
    async def list_deleted(self) -> list[AgentRow]:
        """Return all agents that are marked deleted, by id; ``deleted_at`` says when."""

    @abstractmethod
    async def erase_agent(self, agent_id: str) -> None:
        """Forget an agent entirely: row, sessions, ledger, tasks. Unknown: nothing happens."""

    @abstractmethod
    async def erase_deleted(self, agent_id: str) -> bool:
        """Forget an agent as `erase_agent` does, but only if it is marked deleted; tell whether it was."""

    # --- runners ----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def reserve_start(
        self, record: RunnerRecord, *, manager_id: str, max_containers: int, is_alive: IsAlive | None = None
    ) -> bool:
        """Write ``record`` (status starting) if a place is free, and tell whether it was.

        A place is taken by every other agent of the install whose status is live (`LIVE_STATUSES`), and spoken for by whoever asked in
        vain before and still holds the lease it asked with: so places are given in the order of asking. The manager must hold the
        agent's lease, else `LeaseLost`.
        """

    @abstractmethod
    async def save_runner(self, record: RunnerRecord, *, manager_id: str) -> None:
        """Replace an agent's runner record. The manager must hold the agent's lease, else `LeaseLost`.

        A death noted meanwhile is not overwritten: where the present record is ``failed``, of the same instance, and the new status
        may not follow that, `InstanceExited` is raised.
        """

    @abstractmethod
    async def note_death(self, agent_id: str, instance_id: str, *, reason: str, at: datetime) -> bool:
        """Set status ``failed`` if this is the agent's present instance and its status is starting, ready, running or paused; tell
        whether it was. Needs no lease: it reports what has happened."""

    @abstractmethod
    async def give_up(self, agent_id: str, *, at: datetime) -> bool:
        """Note that nothing is to be started for an agent until `forgive`, or another spec; tell whether that is new. Needs no lease."""

    @abstractmethod
    async def forgive(self, agent_id: str, *, at: datetime) -> bool:
        """Let an agent be started again, and count its crashes from now on; tell whether it had been given up. Needs no lease."""

    # --- life cycle -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def list_kept(self, *, now: datetime, only_due: bool = False) -> list[KeptAgent]:
        """Return the agents that are ready, paused or running: all, by id, or those that are due, the most overdue first."""

    @abstractmethod
    async def next_due(self) -> datetime | None:
        """Tell when the first of them is due; None: none ever is."""

    @abstractmethod
    async def set_due(self, record: RunnerRecord, due_at: datetime | None) -> None:
        """Set when an agent is due. Where its record is not this one any more, nothing happens."""

    @abstractmethod
    async def save_if_free(self, record: RunnerRecord, *, seen: RunnerRecord, manager_id: str, now: datetime) -> bool:
        """Replace the record that was seen, as `save_runner`, if the agent has neither an unfinished run, nor a pending answer, nor a
        hold that is not over; tell whether it was replaced. Whoever asks for one of these later finds what was written."""

    @abstractmethod
    async def count_statuses(self) -> dict[RunnerStatus, int]:
        """Count the known agents in each status; none: left out."""

    @abstractmethod
    async def put_hold(self, hold: Hold, *, at: datetime) -> None:
        """Write a hold, or move the end of the same owner's one. Raises `RunnerNotFound`."""

    @abstractmethod
    async def drop_hold(self, agent_id: str, owner: str, *, at: datetime) -> bool:
        """Remove a hold, and make its agent due; tell whether there was one."""

    @abstractmethod
    async def list_holds(self, *, at: datetime) -> list[Hold]:
        """Return the holds that are not over, by agent and owner."""

    @abstractmethod
    async def drop_ended_holds(self, *, at: datetime) -> list[Hold]:
        """Remove and return the holds whose end has come."""

    @abstractmethod
    async def claim_keeper(self, manager_id: str, is_alive: IsAlive) -> bool:
        """Make this registered manager the install's keeper, unless another one lives; tell whether it is."""

    @abstractmethod
    async def find_keeper(self, is_alive: IsAlive) -> str | None:
        """Return the id of the living keeper, if there is one."""

    @abstractmethod
    async def retire_keeper(self, manager_id: str) -> bool:
        """Drop the keeper's row if no agent has a live instance, in one transaction; tell whether it was dropped."""

    # --- leases and wishes ------------------------------------------------------------------------------------------

    @abstractmethod
    async def acquire_lease(
        self, agent_id: str, manager_id: str, purpose: str, *, at: datetime, is_alive: IsAlive
    ) -> bool:
        """Take the agent's lease for one change, if nobody living has it; tell whether it was taken."""

    @abstractmethod
    async def release_lease(self, agent_id: str, manager_id: str) -> None:
        """Give the lease back; not held: nothing happens."""

    @abstractmethod
    async def get_lease(self, agent_id: str) -> Lease | None:
        """Return the agent's lease, whoever has it."""

    @abstractmethod
    async def add_wish(self, agent_id: str, kind: WishKind, *, task_id: str | None, at: datetime) -> Wish:
        """Leave a wish for the lease's holder and the owners of the agent's queued runs, valid for the runs now in the ledger."""

    @abstractmethod
    async def wishes_for(self, run: RunRecord) -> list[Wish]:
        """Return the wishes that mean this run (its agent, its task or all, its place not after the wish's)."""

    @abstractmethod
    async def drop_wish(self, wish_id: int) -> None:
        """Remove a wish that is fulfilled or void. Gone already: nothing happens."""

    # --- run ledger -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def enter_run(
        self, new: NewRun, *, must_be_alone: bool, is_alive: IsAlive | None = None, intent: Intent | None = None
    ) -> Entry:
        """Enter a run at the end of its agent's queue, or find the entry of its key.

        With ``is_alive``, an entered run's turn is claimed at once, as `claim_turn` does, where it can be: its state is starting then,
        and what `turn_context` would say comes with it. Where the ``intent`` holds too, it is sending at once, as by `mark_sending`
        with a runner that is in a turn.

        With a key known for the agent: another fingerprint raises `IdempotencyConflict`; an entry that ended with the error code
        ``not_sent`` becomes the caller's, queued again at the end; any other is returned as attached. ``must_be_alone`` raises
        `RunInProgress` where the agent has an unfinished entry. Raises `RunnerNotFound`.
        """

    @abstractmethod
    async def queue_of(self, agent_id: str) -> list[RunRecord]:
        """Return the agent's unfinished entries in the order of the ledger."""

    @abstractmethod
    async def claim_turn(self, run: RunRecord, *, at: datetime, is_alive: IsAlive) -> bool:
        """At the head of the queue and with the lease free: take the lease, go from queued to starting, and tell so.

        False where another entry is before it or somebody living has the lease. `LeaseLost` if the entry is not queued by its owner
        any more.
        """

    @abstractmethod
    async def take_over(self, run: RunRecord, *, manager_id: str, at: datetime, is_alive: IsAlive) -> RunRecord | None:
        """Make an unfinished entry at the head of its queue, whose owner is dead, this manager's, together with the lease.

        Return it as it now is (state unchanged), or None where its owner lives, it is not the head, it ended, or the lease is taken.
        """

    @abstractmethod
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
        """Go from starting (or from sending elsewhere, which never left) to sending, unless a wish means this run: then nothing changes
        and the wish is returned.

        Needs the lease, else `LeaseLost`. ``runner``, where given, replaces the agent's runner record as `save_runner` does, and where
        that raises nothing changes. Survives a power loss once it returned.
        """

    @abstractmethod
    async def mark_running(self, run: RunRecord) -> tuple[RunRecord, list[Wish]]:
        """Go from sending to running (the server took the prompt); return the wishes that mean this run too."""

    @abstractmethod
    async def mark_resuming(
        self, run: RunRecord, *, instance_id: str, resumed_after: str | None, runner: RunnerRecord | None = None
    ) -> RunRecord | Wish:
        """Go back to sending from a turn that was interrupted, because another prompt, which says so, is about to leave.

        Otherwise as `mark_sending`. ``resumed_after`` is the session's last message then, ``instance_id`` the instance it leaves for.
        """

    @abstractmethod
    async def finish_run(
        self, run: RunRecord, result: RunResult, *, runner: RunnerRecord | None, at: datetime
    ) -> RunRecord:
        """End an entry with its result, give back its owner's lease if held for it, forget what it waited for, and set the agent's
        ``last_active_at``, all at once.

        ``runner``, where given, replaces the agent's runner record, but only if the owner has the lease, the present instance is still
        the same, and its status is not failed. Ended already, or another's: raises `LeaseLost`.
        """

    @abstractmethod
    async def get_run(self, run_id: str) -> RunRecord:
        """Return one entry; raises `RunNotFound`."""

    @abstractmethod
    async def list_runs(
        self, agent_id: str | None = None, *, states: Sequence[RunState] | None = None, limit: int = 1000
    ) -> list[RunRecord]:
        """Return entries, newest first."""

    # --- sessions ---------------------------------------------------------------------------------------------------

    @abstractmethod
    async def turn_context(self, agent_id: str, task_id: str) -> TurnContext:
        """Return what a turn begins with. Raises `RunnerNotFound`."""

    @abstractmethod
    async def session_of(self, agent_id: str, task_id: str) -> str | None:
        """Return the OpenCode session of a task, if it has one."""

    @abstractmethod
    async def sessions_of(self, agent_id: str) -> dict[str, str]:
        """Return the OpenCode session of each of an agent's tasks that has one; empty for an unknown agent."""

    @abstractmethod
    async def set_session(self, agent_id: str, task_id: str, session_id: str | None) -> None:
        """Remember a task's session (None: forget it)."""

    # --- pending answers --------------------------------------------------------------------------------------------

    @abstractmethod
    async def add_pending(self, pending: PendingAnswer) -> PendingAnswer:
        """Write down a request that waits for somebody's reply. One that is known already is returned as it is, its deadline too."""

    @abstractmethod
    async def get_pending(self, request_id: str) -> PendingAnswer | None:
        """Return a request that waits; None where none of that id does."""

    @abstractmethod
    async def list_pending(self, agent_id: str | None = None) -> list[PendingAnswer]:
        """Return what waits, of all agents or of one, oldest first."""

    @abstractmethod
    async def count_pending(self) -> dict[str, int]:
        """Count what waits, by agent; those without any are left out."""

    @abstractmethod
    async def drop_pending(self, request_id: str) -> None:
        """Forget a request that is answered. Idempotent. Those of a run are forgotten with its end, by `finish_run`."""

    # --- decision log -----------------------------------------------------------------------------------------------

    @abstractmethod
    async def add_decision(self, decision: Decision) -> None:
        """Write one entry of an agent's decision log, known agent or not, and count it. Of each agent the newest 500 are kept."""

    @abstractmethod
    async def list_decisions(self, agent_id: str, *, limit: int = 100) -> list[Decision]:
        """Return an agent's entries, newest first."""

    @abstractmethod
    async def count_decisions(self, agent_id: str, kinds: Sequence[DecisionKind], *, since: datetime) -> int:
        """Count an agent's kept entries of these kinds since a moment."""

    @abstractmethod
    async def decision_totals(self) -> dict[DecisionKind, int]:
        """Tell how often each kind was decided in the install's life, forgotten entries included; never: left out."""

    # --- counts -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def add_counts(self, counts: Counts) -> None:
        """Add to what is counted over the install's life. What a run's end or a decision adds is added with those already."""

    @abstractmethod
    async def tally(self) -> Tally:
        """Count the install as it now is. Takes milliseconds."""

    @abstractmethod
    def tally_blocking(self) -> Tally:
        """As `tally`, for a caller that cannot await: from any thread, and it blocks. A collector of metrics is such a one."""

    # --- tasks ------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def tasks(self) -> TaskStore:
        """What is known of the controller's tasks."""
