"""How long instances live."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model.decisions.life import (
    Due,
    LifeLimits,
    LifeStep,
    Standing,
    due_step,
    has_worked,
    is_over_mark,
    who_yields,
)
from cnap_runner.model.runner import RunnerStatus

ZERO = datetime(2030, 1, 31, tzinfo=UTC)
LIMITS = LifeLimits(pause_after=timedelta(minutes=1), idle_timeout=timedelta(minutes=5), max_age=timedelta(hours=1))


def at(minutes: float) -> datetime:
    return ZERO + timedelta(minutes=minutes)


READY = Standing("alice", RunnerStatus.READY, changed_at=at(0), started_at=at(0))
PAUSED = replace(READY, status=RunnerStatus.PAUSED, changed_at=at(1))
RUNNING = replace(READY, status=RunnerStatus.RUNNING, is_at_work=True)


@pytest.mark.parametrize(
    ("standing", "minutes", "due"),
    [
        (READY, 0, Due(None, at(1))),
        (READY, 1, Due(LifeStep.PAUSE)),
        (READY, 5, Due(LifeStep.STOP_IDLE)),
        (PAUSED, 2, Due(None, at(5))),
        (PAUSED, 5, Due(LifeStep.STOP_IDLE)),
        (RUNNING, 30, Due(None, at(60))),
        (RUNNING, 60, Due(LifeStep.REPLACE_AGE)),
        (replace(READY, is_at_work=True), 30, Due(None, at(60))),
        (replace(READY, pending_answers=1), 30, Due(None, at(60))),
        (replace(READY, held_until=at(40)), 30, Due(None, at(40))),
        (replace(READY, held_until=at(90)), 60, Due(LifeStep.REPLACE_AGE)),
        (replace(READY, last_active_at=at(-3)), 0.5, Due(None, at(1))),
        (replace(READY, last_active_at=at(4)), 4.5, Due(None, at(5))),
        (replace(PAUSED, changed_at=at(9)), 12.9, Due(None, at(13))),
        (READY, -10, Due(None, at(1))),
    ],
)
def test_what_is_due(standing: Standing, minutes: float, due: Due) -> None:
    """Frozen, then stopped, counted from the last activity; a turn, a hold or a pending answer is none of idleness; age counts for all."""
    assert due_step(standing, LIMITS, at(minutes)) == due


def test_nothing_is_due_where_nothing_is_limited() -> None:
    """Each limit may be absent."""
    forever = LifeLimits(None, None, None)
    assert due_step(READY, forever, at(10_000)) == Due(None, None)
    assert forever.first_due(ZERO, started_at=ZERO) is None
    assert LIMITS.first_due(at(59.5), started_at=ZERO) == at(60)
    assert LIMITS.first_due(at(10), started_at=ZERO) == at(11)


def test_a_clock_that_jumps_forward_is_no_activity_and_backward_no_idleness() -> None:
    """After a jump back nobody is idle; after one forward the idle are stopped early, and those at work are left alone."""
    assert due_step(READY, LIMITS, at(-60 * 24)).step is None
    assert due_step(RUNNING, replace(LIMITS, max_age=None), at(60 * 24)).step is None


@pytest.mark.parametrize(
    ("used", "limit", "mark", "is_over"),
    [(84, 100, 85, False), (85, 100, 85, True), (99, None, 85, False), (99, 100, None, False)],
)
def test_the_memory_mark(used: int, limit: int | None, mark: int | None, is_over: bool) -> None:
    """At the mark is over it; without a limit there is nothing to compare with."""
    assert is_over_mark(used, limit, mark) is is_over


def test_only_what_was_used_is_replaced_for_its_memory() -> None:
    """One that is large from its start on would be replaced for ever."""
    assert not has_worked(READY)
    assert not has_worked(replace(READY, last_active_at=at(-1)))
    assert has_worked(replace(READY, last_active_at=at(1)))


def test_the_longest_idle_yields() -> None:
    """Frozen or not; whoever works, is held or waits for an answer keeps its place."""
    young = replace(READY, agent_id="young", changed_at=at(9), last_active_at=at(9))
    old = replace(READY, agent_id="old", changed_at=at(2), last_active_at=at(2))
    frozen = replace(PAUSED, agent_id="frozen", changed_at=at(4), last_active_at=at(3))
    held = replace(READY, agent_id="held", held_until=at(99))
    asked = replace(READY, agent_id="asked", pending_answers=1)
    order = [standing.agent_id for standing in who_yields([young, RUNNING, frozen, held, old, asked])]
    assert order == ["old", "frozen", "young"]
