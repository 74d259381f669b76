"""The managers of an install, and which of them is its keeper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime

IsAlive = Callable[[str], bool]
"""Tells whether a manager's process still lives."""


class ManagerStore(ABC):
    """Managers that live, what they use, and the keeper."""

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

    @abstractmethod
    async def claim_keeper(self, manager_id: str, is_alive: IsAlive) -> bool:
        """Make this registered manager the install's keeper, unless another one lives; tell whether it is."""

    @abstractmethod
    async def find_keeper(self, is_alive: IsAlive) -> str | None:
        """Return the id of the living keeper, if there is one."""

    @abstractmethod
    async def retire_keeper(self, manager_id: str) -> bool:
        """Drop the keeper's row if no agent has a live instance, in one transaction; tell whether it was dropped."""
