"""The OpenCode sessions of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cnap_runner.store.base.agents import AgentRow


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What a turn begins with."""

    agent: AgentRow
    session_id: str | None
    """The OpenCode session of the task, if it has one."""


class SessionStore(ABC):
    """Which session a task has."""

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
