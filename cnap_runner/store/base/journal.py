"""The decision log of each agent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime

from cnap_runner.model.journal import Decision, DecisionKind


class JournalStore(ABC):
    """What was decided of agents, and why."""

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
