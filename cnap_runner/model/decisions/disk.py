"""What an agent's use of the disk means: plain functions over plain values. Whoever asks has looked at the clock and the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

MIB = 1 << 20

MEASURING_SHARE = 20
"""A measurement that took one second is followed by twenty without one."""

SHORTEST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=60)

GROWTH = MIB
"""What may be written between two measurements without anybody being called growing: logs, databases."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """What an agent may take of the disk, in bytes."""

    quota: int
    """Above it no turn begins."""
    ceiling: int
    """A turn that passes it is ended."""
    reserve: int
    """What must stay free on the disk itself."""

    @classmethod
    def of(cls, *, disk_mb: int, ceiling_percent: int, reserve_mb: int) -> DiskLimits:
        """Make them from what is set."""
        return cls(disk_mb * MIB, disk_mb * MIB * ceiling_percent // 100, reserve_mb * MIB)


class DiskFinding(StrEnum):
    """How an agent's use of the disk stands to its limits."""

    FINE = "fine"
    OVER_QUOTA = "over_quota"
    OVER_CEILING = "over_ceiling"
    DISK_NEARLY_FULL = "disk_nearly_full"


def judge_disk(used: int, free: int, limits: DiskLimits) -> DiskFinding:
    """Compare what an agent takes, and what the disk has left, with its limits. The agent's own excess is told first."""
    if used > limits.ceiling:
        return DiskFinding.OVER_CEILING
    if free < limits.reserve:
        return DiskFinding.DISK_NEARLY_FULL
    return DiskFinding.OVER_QUOTA if used > limits.quota else DiskFinding.FINE


def pause_between_measurements(took: timedelta) -> timedelta:
    """Tell how long to wait from the beginning of a measurement that took so long to the next one."""
    return min(max(took * MEASURING_SHARE, SHORTEST_PAUSE), LONGEST_PAUSE)


def is_growing(before: int, after: int) -> bool:
    """Whether somebody still writes, where nobody should."""
    return after - before > GROWTH


def due_for_removal(
    deleted: Iterable[tuple[str, datetime]], *, retention: timedelta | None, now: datetime
) -> list[str]:
    """Name the deleted agents (id, when deleted) whose files have been kept for long enough; without a retention none."""
    if retention is None:
        return []
    return [agent_id for agent_id, deleted_at in deleted if now - deleted_at >= retention]
