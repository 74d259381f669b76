"""Permissions and questions that wait for somebody's reply."""

from __future__ import annotations

import json

import sqlalchemy as sa

from cnap_runner.model.answers import AnswerKind, PendingAnswer
from cnap_runner.store.codec import Row, from_micros, to_micros
from cnap_runner.store.schema import pending_answers

_BY_AGE = sa.select(pending_answers).order_by(pending_answers.c.asked_at, pending_answers.c.request_id)
# By the agent, too: that is what the index knows.
_DROP_OF_RUN = pending_answers.delete().where(
    pending_answers.c.agent_id == sa.bindparam("of_agent"), pending_answers.c.run_id == sa.bindparam("of_run")
)
_DROP_OF_OTHERS = _DROP_OF_RUN.where(pending_answers.c.instance_id != sa.bindparam("but_of"))


def add(tx: sa.Connection, pending: PendingAnswer) -> PendingAnswer:
    """Write one down, or find it written down: its first deadline stays."""
    present = get(tx, pending.request_id)
    if present is None:
        tx.execute(pending_answers.insert(), _values(pending))
    return present or pending


def get(tx: sa.Connection, request_id: str) -> PendingAnswer | None:
    """One that waits."""
    row = tx.execute(sa.select(pending_answers).where(pending_answers.c.request_id == request_id)).first()
    return None if row is None else _pending(row)


def list_all(tx: sa.Connection, agent_id: str | None) -> list[PendingAnswer]:
    """All that wait, or one agent's; oldest first."""
    query = _BY_AGE if agent_id is None else _BY_AGE.where(pending_answers.c.agent_id == agent_id)
    return [_pending(row) for row in tx.execute(query)]


def count(tx: sa.Connection) -> dict[str, int]:
    """How many wait, by agent; one without any is left out."""
    query = sa.select(pending_answers.c.agent_id, sa.func.count().label("waiting"))
    return {row.agent_id: row.waiting for row in tx.execute(query.group_by(pending_answers.c.agent_id))}


def drop(tx: sa.Connection, request_id: str) -> None:
    """Forget one."""
    tx.execute(pending_answers.delete().where(pending_answers.c.request_id == request_id))


def drop_of_run(tx: sa.Connection, agent_id: str, run_id: str) -> None:
    """Forget those of one run, which ends."""
    tx.execute(_DROP_OF_RUN, {"of_agent": agent_id, "of_run": run_id})


def drop_of_others(tx: sa.Connection, agent_id: str, run_id: str, *, instance_id: str) -> None:
    """Forget those of one run that other instances asked: they are gone."""
    tx.execute(_DROP_OF_OTHERS, {"of_agent": agent_id, "of_run": run_id, "but_of": instance_id})


def _values(pending: PendingAnswer) -> dict[str, object]:
    return {
        "request_id": pending.request_id,
        "agent_id": pending.agent_id,
        "instance_id": pending.instance_id,
        "run_id": pending.run_id,
        "kind": pending.kind.value,
        "asked": json.dumps(pending.asked),
        "asked_at": to_micros(pending.asked_at),
        "deadline_at": to_micros(pending.deadline_at),
    }


def _pending(row: Row) -> PendingAnswer:
    return PendingAnswer(
        request_id=row.request_id,
        agent_id=row.agent_id,
        run_id=row.run_id,
        instance_id=row.instance_id,
        kind=AnswerKind(row.kind),
        asked=json.loads(row.asked),
        asked_at=from_micros(row.asked_at),
        deadline_at=from_micros(row.deadline_at),
    )
