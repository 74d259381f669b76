"""Wishes: what somebody wants of an agent whose lease another manager holds."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from cnap_runner.model.run import RunRecord
from cnap_runner.store.base import Wish, WishKind
from cnap_runner.store.codec import to_micros, wish_from_row
from cnap_runner.store.schema import runs, unfinished, wishes

_MEANS_TASK = wishes.c.task_id.is_(None) | (wishes.c.task_id == sa.bindparam("of_task"))
_MEANING = (
    sa.select(wishes)
    .where(wishes.c.agent_id == sa.bindparam("of_agent"), wishes.c.upto_place >= sa.bindparam("of_place"), _MEANS_TASK)
    .order_by(wishes.c.wish_id)
)
_MEANT = (
    sa.exists()
    .where(runs.c.agent_id == wishes.c.agent_id, unfinished, runs.c.place <= wishes.c.upto_place)
    .where(wishes.c.task_id.is_(None) | (wishes.c.task_id == runs.c.task_id))
)
_DROP_VOID = wishes.delete().where(wishes.c.agent_id == sa.bindparam("of_agent"), ~_MEANT)

means_run = (
    sa.exists()
    .where(wishes.c.agent_id == runs.c.agent_id, wishes.c.upto_place >= runs.c.place)
    .where(wishes.c.task_id.is_(None) | (wishes.c.task_id == runs.c.task_id))
)
"""Condition on `runs`: a wish means this one."""


def add(tx: sa.Connection, agent_id: str, kind: WishKind, *, task_id: str | None, at: datetime) -> Wish:
    """Leave a wish. Earlier ones that mean no unfinished run any more go, so that forgotten wishes do not pile up."""
    tx.execute(_DROP_VOID, {"of_agent": agent_id})
    last_place = sa.select(sa.func.coalesce(sa.func.max(runs.c.place), 0)).scalar_subquery()
    new = wishes.insert().values(
        agent_id=agent_id, kind=kind.value, task_id=task_id, upto_place=last_place, created_at=to_micros(at)
    )
    return wish_from_row(tx.execute(new.returning(wishes)).one())


def meaning(tx: sa.Connection, run: RunRecord) -> list[Wish]:
    """The wishes that mean a run, oldest first."""
    values = {"of_agent": run.agent_id, "of_task": run.task_id, "of_place": run.place}
    return [wish_from_row(row) for row in tx.execute(_MEANING, values)]


def drop(tx: sa.Connection, wish_id: int) -> None:
    """Remove a wish."""
    tx.execute(wishes.delete().where(wishes.c.wish_id == wish_id))
