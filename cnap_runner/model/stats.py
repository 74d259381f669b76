"""Stats: how many agents there are of each kind, and what ended their instances and turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import RunnerStatus

_S = RunnerStatus
_ACTIVE = (_S.STARTING, _S.RUNNING, _S.STOPPING)
_STOPPED = (_S.PENDING, _S.STOPPED)


@dataclass(frozen=True, slots=True)
class Stats:
    """One install, counted. The first is the sum of the next five; the others count over the install's life, whichever manager did it."""

    total: int
    """Agents that are known."""
    active: int
    """In a turn, or on the way to or from one: starting, running, stopping."""
    idle: int
    """Ready for a turn at once."""
    paused: int
    """Frozen; ready within some milliseconds."""
    stopped: int
    """Without an instance: stopped, or never started."""
    failed: int
    """Whose instance ended by itself or would not start."""
    ended_by_idle: int
    """Instances stopped because they had nothing to do."""
    ended_by_age: int
    """Instances replaced because they were old."""
    ended_by_memory: int
    """Instances replaced because they were large."""
    ended_by_limit: int
    """Turns aborted because their time was over."""
    yielded: int
    """Idle instances stopped because another agent needed their place."""

    @classmethod
    def of(cls, statuses: Mapping[RunnerStatus, int], decided: Mapping[DecisionKind, int]) -> Self:
        """Make them from what is counted; what is left out was never there."""
        return cls(
            total=sum(statuses.values()),
            active=sum(statuses.get(status, 0) for status in _ACTIVE),
            idle=statuses.get(_S.READY, 0),
            paused=statuses.get(_S.PAUSED, 0),
            stopped=sum(statuses.get(status, 0) for status in _STOPPED),
            failed=statuses.get(_S.FAILED, 0),
            ended_by_idle=decided.get(DecisionKind.STOPPED_IDLE, 0),
            ended_by_age=decided.get(DecisionKind.RECYCLED_AGE, 0),
            ended_by_memory=decided.get(DecisionKind.RECYCLED_MEMORY, 0),
            ended_by_limit=decided.get(DecisionKind.ABORTED_LIMIT, 0),
            yielded=decided.get(DecisionKind.YIELDED, 0),
        )
