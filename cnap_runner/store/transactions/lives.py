"""Agents with live instances, as their keeper sees them: what keeps each from being idle, and when it is due."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from cnap_runner.model.decisions.life import Standing
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import KeptAgent
from cnap_runner.store.codec import Row, agent_from_row, from_micros, to_micros
from cnap_runner.store.schema import agents, holds, pending_answers, runs, unfinished
from cnap_runner.store.transactions import agents as known_agents
from cnap_runner.store.transactions import leases

_KEPT = sa.and_(
    agents.c.deleted_at.is_(None),
    agents.c.status.in_([s.value for s in (RunnerStatus.READY, RunnerStatus.PAUSED, RunnerStatus.RUNNING)]),
)
_HAS_RUN = sa.exists().where(runs.c.agent_id == agents.c.agent_id, unfinished)
_ANSWERS = (
    sa.select(sa.func.count())
    .where(pending_answers.c.agent_id == agents.c.agent_id)
    .correlate(agents)
    .scalar_subquery()
)
_HELD_UNTIL = (
    sa.select(sa.func.max(holds.c.until))
    .where(holds.c.agent_id == agents.c.agent_id, holds.c.until > sa.bindparam("now"))
    .correlate(agents)
    .scalar_subquery()
)
_STANDINGS = sa.select(
    agents,
    sa.or_(_HAS_RUN, leases.is_taken(agents.c.agent_id)).label("is_at_work"),
    _ANSWERS.label("pending_answers"),
    _HELD_UNTIL.label("held_until"),
).where(_KEPT)
_ALL = _STANDINGS.order_by(agents.c.agent_id)
_DUE = _STANDINGS.where(agents.c.due_at <= sa.bindparam("now")).order_by(agents.c.due_at)
_NEXT_DUE = sa.select(sa.func.min(agents.c.due_at)).where(_KEPT)

_AT = sa.and_(
    agents.c.agent_id == sa.bindparam("of_agent"),
    agents.c.status == sa.bindparam("in_status"),
    agents.c.instance_id.is_not_distinct_from(sa.bindparam("same_instance", type_=sa.Text)),
    agents.c.changed_at.is_not_distinct_from(sa.bindparam("as_of", type_=sa.BigInteger)),
)
_SET_DUE = agents.update().where(_AT).values(due_at=sa.bindparam("due"))
_IS_FREE = sa.select(sa.literal(1)).where(_AT, ~_HAS_RUN, _ANSWERS == 0, _HELD_UNTIL.is_(None))


def list_kept(tx: sa.Connection, *, now: datetime, only_due: bool) -> list[KeptAgent]:
    """Agents that are ready, paused or running: all, by id, or those that are due, the most overdue first."""
    return [_kept(row) for row in tx.execute(_DUE if only_due else _ALL, {"now": to_micros(now)})]


def next_due(tx: sa.Connection) -> datetime | None:
    """When the first of them is due."""
    found = tx.execute(_NEXT_DUE).scalar()
    return None if found is None else from_micros(found)


def set_due(tx: sa.Connection, record: RunnerRecord, due_at: datetime | None) -> None:
    """Set when a record is due, unless it is another one by now."""
    tx.execute(_SET_DUE, {**_same(record), "due": None if due_at is None else to_micros(due_at)})


def save_if_free(
    tx: sa.Connection, record: RunnerRecord, *, seen: RunnerRecord, manager_id: str, now: datetime
) -> bool:
    """Replace the record that was seen, if the agent has no run, no pending answer and no hold; raises as `agents.save_runner`."""
    if tx.execute(_IS_FREE, {**_same(seen), "now": to_micros(now)}).first() is None:
        return False
    known_agents.save_runner(tx, record, manager_id=manager_id)
    return True


def count_statuses(tx: sa.Connection) -> dict[RunnerStatus, int]:
    """How many known agents are in each status; none: left out."""
    query = sa.select(agents.c.status, sa.func.count().label("many")).where(agents.c.deleted_at.is_(None))
    return {RunnerStatus(row.status): row.many for row in tx.execute(query.group_by(agents.c.status))}


def _same(record: RunnerRecord) -> dict[str, object]:
    return {
        "of_agent": record.agent_id,
        "in_status": record.status.value,
        "same_instance": record.instance_id,
        "as_of": None if record.changed_at is None else to_micros(record.changed_at),
    }


def _kept(row: Row) -> KeptAgent:
    agent = agent_from_row(row)
    changed_at = agent.runner.changed_at or agent.created_at
    standing = Standing(
        agent_id=agent.runner.agent_id,
        status=agent.runner.status,
        changed_at=changed_at,
        started_at=agent.runner.started_at or changed_at,
        last_active_at=agent.last_active_at,
        is_at_work=bool(row.is_at_work),
        pending_answers=row.pending_answers,
        held_until=None if row.held_until is None else from_micros(row.held_until),
    )
    return KeptAgent(agent, standing)
