"""The whole contract: all its parts, and what concerns the install itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cnap_runner.store.base.agents import AgentStore
from cnap_runner.store.base.counting import CountingStore
from cnap_runner.store.base.holds import HoldStore
from cnap_runner.store.base.journal import JournalStore
from cnap_runner.store.base.leases import LeaseStore
from cnap_runner.store.base.ledger import LedgerStore
from cnap_runner.store.base.lives import LifeStore
from cnap_runner.store.base.managers import ManagerStore
from cnap_runner.store.base.runners import RunnerStore
from cnap_runner.store.base.sessions import SessionStore
from cnap_runner.store.base.tasks import TaskStore
from cnap_runner.store.base.waiting import WaitingStore


class Store(
    ManagerStore,
    AgentStore,
    RunnerStore,
    LifeStore,
    HoldStore,
    LeaseStore,
    LedgerStore,
    SessionStore,
    WaitingStore,
    JournalStore,
    CountingStore,
    ABC,
):
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

    @property
    @abstractmethod
    def tasks(self) -> TaskStore:
        """What is known of the controller's tasks."""
