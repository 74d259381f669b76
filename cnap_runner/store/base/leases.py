"""Leases, and the wishes that are left for their holders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cnap_runner.model.run import RunRecord
from cnap_runner.store.base.managers import IsAlive


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

    @property
    def words(self) -> str:
        """Who ends a run by it, as a reason: ``somebody asked to abort task readme of agent alice``."""
        whom = f"agent {self.agent_id}" if self.task_id is None else f"task {self.task_id} of agent {self.agent_id}"
        return f"somebody asked to {self.kind} {whom}"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to change or drive one agent."""

    agent_id: str
    manager_id: str
    purpose: str
    """``run:<run id>``, ``stop``, ``start``, ``delete`` …"""
    acquired_at: datetime


class LeaseStore(ABC):
    """Who may change or drive an agent, and what others want of it."""

    @abstractmethod
    async def acquire_lease(
        self, agent_id: str, manager_id: str, purpose: str, *, at: datetime, is_alive: IsAlive
    ) -> bool:
        """Take the agent's lease for one change, if nobody living has it; tell whether it was taken."""

    @abstractmethod
    async def release_lease(self, agent_id: str, manager_id: str) -> None:
        """Give the lease back; not held: nothing happens."""

    @abstractmethod
    async def give_back(self, lease: Lease) -> None:
        """Give back the very lease that was acquired so; any other one of the agent, of the same manager too, stays with whoever has it."""

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
