"""How long an instance lives: who is due to be frozen, stopped or replaced, and who yields a place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cnap_runner.model.runner import RunnerStatus


@dataclass(frozen=True, slots=True)
class LifeLimits:
    """How long one agent's instance may do nothing, and how long it may live. None: for ever."""

    pause_after: timedelta | None
    idle_timeout: timedelta | None
    max_age: timedelta | None
    memory_mark_percent: int | None = None
    """Share of its memory limit at which an instance is replaced."""

    def first_due(self, idle_since: datetime, *, started_at: datetime | None = None) -> datetime | None:
        """Tell when something is to be decided about an instance that becomes idle now; None: never."""
        ends = [idle_since + after for after in (self.pause_after, self.idle_timeout) if after is not None]
        if started_at is not None and self.max_age is not None:
            ends.append(started_at + self.max_age)
        return min(ends, default=None)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an agent with a live instance."""

    agent_id: str
    status: RunnerStatus
    changed_at: datetime
    """When it came into this status."""
    started_at: datetime
    """When the instance became ready."""
    last_active_at: datetime | None = None
    """When the agent's last turn ended, in whatever instance."""
    is_at_work: bool = False
    """It has an unfinished run, or somebody has its lease."""
    pending_answers: int = 0
    held_until: datetime | None = None
    """The latest end of its holds that are not over."""

    @property
    def is_free(self) -> bool:
        """Whether nothing but idleness speaks for or against its end: no turn, no pending answer, no hold."""
        is_warm = self.status in {RunnerStatus.READY, RunnerStatus.PAUSED}
        return is_warm and not self.is_at_work and not self.pending_answers and self.held_until is None

    def idle_since(self, pause_after: timedelta | None) -> datetime:
        """Tell when it last did something: a turn, its start, or being woken. The clock of an instance starts when that is ready, so
        it inherits nothing from an earlier one. A freeze is no activity: it came ``pause_after`` after one."""
        became = self.changed_at
        if self.status is RunnerStatus.PAUSED:
            became = self.changed_at - (pause_after or timedelta(0))
        return max(became, self.started_at, self.last_active_at or self.started_at)


class LifeStep(StrEnum):
    """What is to be done with an instance."""

    PAUSE = "pause"
    STOP_IDLE = "stop_idle"
    REPLACE_AGE = "replace_age"
    """As soon as it is between turns, whether idle or held."""


@dataclass(frozen=True, slots=True)
class Due:
    """What is due now, or when to look again."""

    step: LifeStep | None
    again_at: datetime | None = None
    """With a step: None. Without one: when something may be due; None: never, unless something happens."""


def due_step(standing: Standing, limits: LifeLimits, now: datetime) -> Due:
    """Tell what is to be done with a live instance now. Age comes first, for it counts whatever the agent does; then the stop."""
    dies_at = None if limits.max_age is None else standing.started_at + limits.max_age
    if dies_at is not None and now >= dies_at:
        return Due(LifeStep.REPLACE_AGE)
    if not standing.is_free:
        return Due(None, _earliest(dies_at, standing.held_until))
    idle_since = standing.idle_since(limits.pause_after)
    stops_at = None if limits.idle_timeout is None else idle_since + limits.idle_timeout
    if stops_at is not None and now >= stops_at:
        return Due(LifeStep.STOP_IDLE)
    pauses_at = None
    if standing.status is RunnerStatus.READY and limits.pause_after is not None:
        pauses_at = idle_since + limits.pause_after
        if now >= pauses_at:
            return Due(LifeStep.PAUSE)
    return Due(None, _earliest(dies_at, stops_at, pauses_at))


def is_over_mark(used_bytes: int, limit_bytes: int | None, mark_percent: int | None) -> bool:
    """Whether an instance uses so much of its memory that it is to be replaced. Without a limit or a mark: never."""
    return limit_bytes is not None and mark_percent is not None and used_bytes * 100 >= limit_bytes * mark_percent


def has_worked(standing: Standing) -> bool:
    """Whether a turn ended in the present instance. One that was never used and is large all the same would be so again."""
    return standing.last_active_at is not None and standing.last_active_at > standing.started_at


def who_yields(standings: Iterable[Standing]) -> list[Standing]:
    """Order those that may give their place away: the one that has been idle for longest first. No settings count here."""
    free = [standing for standing in standings if standing.is_free]
    return sorted(free, key=lambda standing: (standing.idle_since(None), standing.agent_id))


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
