"""Agents: what is wanted of them, and who is deleted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.store.specs import StoredSpec


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


class AgentStore(ABC):
    """What is wanted of agents."""

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
    async def mark_deleted(self, agent_id: str, *, at: datetime) -> None:
        """Mark an agent deleted. Unknown or deleted already: nothing happens. Its ledger stays, nobody holds it any more."""

    @abstractmethod
    async def list_deleted(self) -> list[AgentRow]:
        """Return all agents that are marked deleted, by id; ``deleted_at`` says when."""

    @abstractmethod
    async def erase_agent(self, agent_id: str) -> None:
        """Forget an agent entirely: row, sessions, ledger, tasks. Unknown: nothing happens."""

    @abstractmethod
    async def erase_deleted(self, agent_id: str) -> bool:
        """Forget an agent as `erase_agent` does, but only if it is marked deleted; tell whether it was."""
