"""Runners' records: which instance an agent has, and how it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from datetime import datetime

from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base.managers import IsAlive


class RunnerStore(ABC):
    """Which instances agents have."""

    @abstractmethod
    async def list_runners(self, statuses: Collection[RunnerStatus]) -> list[RunnerRecord]:
        """Return the runners' records of the agents that are not deleted and have one of these statuses, by agent's id."""

    @abstractmethod
    async def named_instances(self) -> set[str]:
        """Return the ids of the instances that runners' records name, of agents that are not deleted."""

    @abstractmethod
    async def reserve_start(
        self,
        record: RunnerRecord,
        *,
        manager_id: str,
        max_containers: int,
        at: datetime,
        is_alive: IsAlive | None = None,
    ) -> bool:
        """Write ``record`` (status starting) if a place is free, and tell whether it was.

        A place is taken by every other agent of the install whose status is live (`LIVE_STATUSES`), and spoken for by whoever asked in
        vain before and still holds the lease it asked with: so places are given in the order of asking. Whoever has neither asked again
        nor called `still_waits` for some seconds is passed over, and has its turn again once it does. The manager must hold the agent's
        lease, else `LeaseLost`.
        """

    @abstractmethod
    async def still_waits(self, agent_id: str, manager_id: str, *, at: datetime) -> None:
        """Say that an agent still waits for a place, while its manager does something else. One that waits for none: nothing happens."""

    @abstractmethod
    async def list_waiting(self, is_alive: IsAlive, *, at: datetime) -> list[str]:
        """Return the agents that wait for a place, in the order in which they get one."""

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
