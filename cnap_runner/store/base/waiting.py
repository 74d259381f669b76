"""Pending answers: requests of agents that wait for somebody's reply."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cnap_runner.model.answers import PendingAnswer


class WaitingStore(ABC):
    """What waits for a reply."""

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
