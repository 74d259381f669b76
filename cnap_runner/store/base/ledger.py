"""The run ledger: all runs, and each agent's queue of unfinished ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base.leases import Wish
from cnap_runner.store.base.managers import IsAlive
from cnap_runner.store.base.sessions import TurnContext


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


class LedgerStore(ABC):
    """All runs in the order of their places."""

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

        Otherwise as `mark_sending`. ``resumed_after`` is the session's last message then, ``instance_id`` the instance it leaves for: what
        others asked for the run is forgotten.
        """

    @abstractmethod
    async def finish_run(
        self, run: RunRecord, result: RunResult, *, runner: RunnerRecord | None, at: datetime
    ) -> RunRecord:
        """End an entry with its result, give back its owner's lease if held for it, forget what it waited for, and set the agent's
        ``last_active_at``, all at once.

        ``runner``, where given, replaces the agent's runner record, but only if the owner has the lease, the present instance is still
        the same, and its status is not failed. None: where the record says that it is in this run's turn, it becomes ready, and due for its
        keeper; nothing else of it changes. Ended already, or another's: raises `LeaseLost`.
        """

    @abstractmethod
    async def get_run(self, run_id: str) -> RunRecord:
        """Return one entry; raises `RunNotFound`."""

    @abstractmethod
    async def list_runs(
        self, agent_id: str | None = None, *, states: Sequence[RunState] | None = None, limit: int = 1000
    ) -> list[RunRecord]:
        """Return entries, newest first."""
