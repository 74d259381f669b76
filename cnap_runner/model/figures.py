"""What an install looks like in numbers: `Tally` as the store has it, `Sample` as its containers were measured, `MetricsSnapshot` for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cnap_runner.model import counts as names
from cnap_runner.model.counts import Counts, decided
from cnap_runner.model.instance import Limits, ResourceUsage
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import LIVE_STATUSES, RunnerStatus


@dataclass(frozen=True, slots=True)
class Tally:
    """What the store knows of an install at one moment, counted. What there is none of may be left out."""

    runners: Mapping[RunnerStatus, int] = field(default_factory=dict)
    """Agents that are not deleted, by their runner's status."""
    runs: Mapping[str, int] = field(default_factory=dict)
    """Unfinished runs, by state."""
    oldest_queued_at: datetime | None = None
    """When the run was accepted that has waited longest for its turn."""
    pending_answers: Mapping[str, int] = field(default_factory=dict)
    """By kind."""
    tasks: Mapping[str, int] = field(default_factory=dict)
    """By state."""
    managers: Mapping[str, int] = field(default_factory=dict)
    """By role; one that was killed counts until the next manager opens."""
    held_agents: int = 0
    counts: Counts = field(default_factory=dict)
    """All that was ever counted, decisions too, by key."""

    @property
    def containers(self) -> int:
        """How many places for containers are taken."""
        return sum(self.runners.get(status, 0) for status in LIVE_STATUSES)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one live instance uses, against what it may."""

    agent_id: str
    usage: ResourceUsage
    limits: Limits | None
    """Those that it was given; None: not known."""

    @property
    def memory_limit(self) -> int | None:
        """Bytes it may use at most; None where nothing limits it."""
        return self.limits.memory_bytes if self.limits is not None else self.usage.memory_limit_bytes


@dataclass(frozen=True, slots=True)
class DiskMeasured:
    """What one agent's files take, against its quota. Bytes."""

    agent_id: str
    used: int
    quota: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured last of an install's live instances and its agents' files."""

    at: datetime | None = None
    """None: nothing was measured yet."""
    instances: tuple[Measured, ...] = ()
    unmeasured: int = 0
    """Live instances that could not be measured."""
    cpu_seconds: float = 0.0
    """Used by all instances since the measuring began; only grows."""
    disks: tuple[DiskMeasured, ...] = ()
    """Of the agents that this manager measured."""
    disk_free: int | None = None
    """Bytes left on the data folder's disk."""


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """FR-010's counters over the install's life, whoever did it. Averages are 0 where nothing was measured."""

    containers_created: int
    containers_started: int
    containers_stopped: int
    """Ended on purpose."""
    containers_failed: int
    """Did not start, or ended by themselves."""
    tasks_executed: int
    """Runs that ended; the original specification says task where we say run."""
    tasks_succeeded: int
    tasks_failed: int
    """All that did not succeed: failed, aborted, timed out, unknown."""
    avg_execution_time_ms: float
    """From a run's acceptance to its end."""
    avg_container_start_ms: float
    errors_total: int
    errors_recovered: int
    retries_total: int

    @classmethod
    def of(cls, counts: Counts) -> MetricsSnapshot:
        """Read it out of what was counted."""
        runs = {outcome: int(number) for (outcome,), number in names.RUNS.in_counts(counts).items()}
        executed, succeeded = sum(runs.values()), runs.get("succeeded", 0)
        return cls(
            containers_created=int(names.CONTAINERS_CREATED.in_counts(counts)[()]),
            containers_started=decided(counts, (DecisionKind.STARTED,)),
            containers_stopped=decided(counts, names.STOPS),
            containers_failed=decided(counts, names.FAILURES),
            tasks_executed=executed,
            tasks_succeeded=succeeded,
            tasks_failed=executed - succeeded,
            avg_execution_time_ms=names.RUN_DURATION.in_counts(counts).average_ms,
            avg_container_start_ms=names.START_DURATION.in_counts(counts).average_ms,
            errors_total=int(sum(names.ERRORS.in_counts(counts).values())),
            errors_recovered=decided(counts, (DecisionKind.RECOVERED,)),
            retries_total=decided(counts, (DecisionKind.RETRIED,)),
        )
