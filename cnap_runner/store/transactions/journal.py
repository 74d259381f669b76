"""The decision log, and how often each kind of decision was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from cnap_runner.model.counts import of_decision
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.store.codec import Row, from_micros, to_micros
from cnap_runner.store.schema import counters, decisions
from cnap_runner.store.transactions import counting

KEPT_PER_AGENT = 500
"""Decisions kept of each agent: some weeks of one that is used all day."""
_SLACK = 50
"""Old ones are removed so many at a time, not one with each new one."""

_ADD = decisions.insert()
_OF_AGENT = decisions.c.agent_id == sa.bindparam("of_agent")
_SIZE = sa.select(sa.func.count()).select_from(decisions).where(_OF_AGENT)
_OLDEST_KEPT = (
    sa.select(decisions.c.decision_id)
    .where(_OF_AGENT)
    .order_by(decisions.c.decision_id.desc())
    .offset(KEPT_PER_AGENT - 1)
    .limit(1)
)
_FORGET = decisions.delete().where(_OF_AGENT, decisions.c.decision_id < sa.bindparam("oldest"))


def add(tx: sa.Connection, decision: Decision) -> None:
    """Write one entry and count it; the oldest of the agent beyond the limit go."""
    tx.execute(_ADD, _values(decision))
    counting.add(tx, of_decision(decision))
    of_agent = {"of_agent": decision.agent_id}
    if (tx.execute(_SIZE, of_agent).scalar() or 0) > KEPT_PER_AGENT + _SLACK:
        tx.execute(_FORGET, {**of_agent, "oldest": tx.execute(_OLDEST_KEPT, of_agent).scalar()})


def list_newest(tx: sa.Connection, agent_id: str, *, limit: int) -> list[Decision]:
    """Entries of an agent, newest first."""
    query = sa.select(decisions).where(decisions.c.agent_id == agent_id).order_by(decisions.c.decision_id.desc())
    return [_decision(row) for row in tx.execute(query.limit(limit))]


def count_since(tx: sa.Connection, agent_id: str, kinds: Sequence[DecisionKind], since: datetime) -> int:
    """How many entries of these kinds an agent has since a moment, as far as they are kept."""
    wanted = sa.and_(
        decisions.c.agent_id == agent_id,
        decisions.c.kind.in_([kind.value for kind in kinds]),
        decisions.c.at >= to_micros(since),
    )
    return tx.execute(sa.select(sa.func.count()).select_from(decisions).where(wanted)).scalar() or 0


def totals(tx: sa.Connection) -> dict[DecisionKind, int]:
    """How often each kind was decided in the install's life; one that never was is left out."""
    known = set(DecisionKind)
    return {DecisionKind(row.name): row.value for row in tx.execute(sa.select(counters)) if row.name in known}


def _values(decision: Decision) -> dict[str, object]:
    return {
        "agent_id": decision.agent_id,
        "at": to_micros(decision.at),
        "kind": decision.kind.value,
        "reason": decision.reason,
        "evidence": json.dumps(dict(decision.evidence)),
        "manager_id": decision.manager_id,
    }


def _decision(row: Row) -> Decision:
    return Decision(
        agent_id=row.agent_id,
        kind=DecisionKind(row.kind),
        reason=row.reason,
        at=from_micros(row.at),
        evidence=json.loads(row.evidence),
        manager_id=row.manager_id,
    )
