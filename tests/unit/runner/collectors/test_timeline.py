"""Which run an agent was at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model.run import RunRecord, RunState
from cnap_runner.runner.collectors.timeline import Timeline

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def run(place: int, created: float, ended: float | None) -> RunRecord:
    return RunRecord(
        run_id=f"run-{place}",
        agent_id="alice",
        task_id="main",
        place=place,
        state=RunState.RUNNING if ended is None else RunState.ENDED,
        owner="m",
        fingerprint="",
        created_at=at(created),
        ended_at=None if ended is None else at(ended),
    )


RUNS = [run(1, 0, 10), run(2, 5, 20), run(3, 6, 8), run(4, 30, None), run(5, 31, None)]
"""The second waits for the first, the third is aborted while it waits, the last one waits still."""


@pytest.mark.parametrize(
    ("second", "expected"),
    [(-1, None), (0, "run-1"), (9, "run-1"), (11, "run-2"), (20, "run-2"), (21, None), (30, "run-4"), (99, "run-4")],
)
def test_a_moment_belongs_to_the_run_at_the_head_of_the_queue(second: float, expected: str | None) -> None:
    """Who waits has no time of its own."""
    assert Timeline(RUNS[::-1]).run_at(at(second)) == expected


def test_an_unknown_time_belongs_to_none() -> None:
    """Nor does any, where there are no runs."""
    assert Timeline(RUNS).run_at(None) is None
    assert Timeline([]).run_at(NOON) is None
