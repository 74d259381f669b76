"""The life cycle: which agents are due to be paused, stopped or replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime

from cnap_runner.model.decisions.life import Standing
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base.agents import AgentRow


@dataclass(frozen=True, slots=True)
class KeptAgent:
    """An agent with a live instance, as its keeper sees it."""

    agent: AgentRow
    standing: Standing


class LifeStore(ABC):
    """When agents are due, and what may end then."""

    @abstractmethod
    async def list_kept(self, *, now: datetime, only_due: bool = False) -> list[KeptAgent]:
        """Return the agents that are ready, paused or running: all, by id, or those that are due, the most overdue first."""

    @abstractmethod
    async def next_due(self) -> datetime | None:
        """Tell when the first of them is due; None: none ever is."""

    @abstractmethod
    async def set_due(self, record: RunnerRecord, due_at: datetime | None) -> None:
        """Set when an agent is due. Where its record is not this one any more, nothing happens."""

    @abstractmethod
    async def save_if_free(self, record: RunnerRecord, *, seen: RunnerRecord, manager_id: str, now: datetime) -> bool:
        """Replace the record that was seen, as `save_runner`, if the agent has neither an unfinished run, nor a pending answer, nor a
        hold that is not over; tell whether it was replaced. Whoever asks for one of these later finds what was written."""

    @abstractmethod
    async def count_statuses(self) -> dict[RunnerStatus, int]:
        """Count the known agents in each status; none: left out."""
