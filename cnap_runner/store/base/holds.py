"""Holds: who wants an agent to stay as it is, and until when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime

from cnap_runner.model.hold import Hold


class HoldStore(ABC):
    """Who holds which agent."""

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
