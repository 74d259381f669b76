"""Who is due for what."""

from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model.decisions.disk import (
    MIB,
    DiskFinding,
    DiskLimits,
    due_for_removal,
    is_growing,
    judge_disk,
    pause_between_measurements,
)

LIMITS = DiskLimits.of(disk_mb=100, ceiling_percent=150, reserve_mb=10)
NOW = datetime(2030, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("used", "free", "finding"),
    [
        (0, 1000, DiskFinding.FINE),
        (100, 10, DiskFinding.FINE),
        (100 + 1 / MIB, 1000, DiskFinding.OVER_QUOTA),
        (150, 1000, DiskFinding.OVER_QUOTA),
        (151, 1000, DiskFinding.OVER_CEILING),
        (0, 9, DiskFinding.DISK_NEARLY_FULL),
        (120, 9, DiskFinding.DISK_NEARLY_FULL),
        (151, 9, DiskFinding.OVER_CEILING),
    ],
)
def test_how_use_stands_to_limits(used: float, free: int, finding: DiskFinding) -> None:
    """At a limit is within it; an agent over its own ceiling is told so, even on a full disk. In MiB."""
    assert judge_disk(round(used * MIB), free * MIB, LIMITS) is finding


@pytest.mark.parametrize(("took", "pause"), [(0.001, 1), (0.1, 2), (1, 20), (60, 60)])
def test_measuring_takes_a_twentieth_of_the_time(took: float, pause: float) -> None:
    """Not more often than each second, and at least each minute."""
    assert pause_between_measurements(timedelta(seconds=took)) == timedelta(seconds=pause)


def test_a_log_line_is_no_growth() -> None:
    """Only what could fill a disk is."""
    assert not is_growing(10 * MIB, 11 * MIB)
    assert is_growing(10 * MIB, 12 * MIB)


def test_only_agents_deleted_for_long_enough_are_due() -> None:
    """At the very end of the retention; without one nobody ever is."""
    deleted = [("old", NOW - timedelta(days=31)), ("due", NOW - timedelta(days=30)), ("new", NOW - timedelta(days=29))]
    assert due_for_removal(deleted, retention=timedelta(days=30), now=NOW) == ["old", "due"]
    assert due_for_removal(deleted, retention=timedelta(0), now=NOW) == ["old", "due", "new"]
    assert due_for_removal(deleted, retention=None, now=NOW) == []
