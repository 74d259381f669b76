"""What was counted over the install's life, and how things stand now, in numbers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cnap_runner.model.counts import Counts
from cnap_runner.model.figures import Tally
from cnap_runner.model.run import RunState
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.store.codec import from_micros
from cnap_runner.store.schema import agents, counters, holds, managers, pending_answers, runs, tasks, unfinished

# As text: SQLAlchemy's own form of it belongs to one dialect each, and SQLite and PostgreSQL both read this.
_ADD = sa.text(
    "INSERT INTO counters (name, value) VALUES (:name, :value) "
    "ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value"
)
_STATUSES = sa.select(agents.c.status, sa.func.count()).where(agents.c.deleted_at.is_(None)).group_by(agents.c.status)
_STATES = sa.select(runs.c.state, sa.func.count()).where(unfinished).group_by(runs.c.state)
_OLDEST = sa.select(sa.func.min(runs.c.created_at)).where(unfinished, runs.c.state == RunState.QUEUED.value)
_ANSWERS = sa.select(pending_answers.c.kind, sa.func.count()).group_by(pending_answers.c.kind)
_TASKS = sa.select(tasks.c.state, sa.func.count()).group_by(tasks.c.state)
_MANAGERS = sa.select(managers.c.role, sa.func.count()).group_by(managers.c.role)
_HELD = sa.select(sa.func.count(holds.c.agent_id.distinct()))
_COUNTS = sa.select(counters.c.name, counters.c.value)


def add(tx: sa.Connection, counts: Counts) -> None:
    """Add to what was counted. Nothing to add: nothing happens."""
    rows = [{"name": name, "value": value} for name, value in counts.items() if value]
    if rows:
        tx.execute(_ADD, rows)


def tally(tx: sa.Connection) -> Tally:
    """Count the install as it is. Takes milliseconds, however many runs have ended."""
    oldest = tx.execute(_OLDEST).scalar()
    return Tally(
        runners={RunnerStatus(status): number for status, number in _pairs(tx, _STATUSES).items()},
        runs=_pairs(tx, _STATES),
        oldest_queued_at=None if oldest is None else from_micros(oldest),
        pending_answers=_pairs(tx, _ANSWERS),
        tasks=_pairs(tx, _TASKS),
        managers=_pairs(tx, _MANAGERS),
        held_agents=tx.execute(_HELD).scalar() or 0,
        counts=_pairs(tx, _COUNTS),
    )


def _pairs(tx: sa.Connection, query: sa.Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in tx.execute(query)}
