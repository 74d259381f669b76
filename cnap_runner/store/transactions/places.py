"""The places of ``max_containers``, and the line of those who wait for one: first come, first served, over all managers.

A ticket is a column of the lease that whoever starts an agent holds, so it is gone with the lease, however that ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cnap_runner.model.runner import LIVE_STATUSES, RunnerRecord
from cnap_runner.store.base import IsAlive
from cnap_runner.store.codec import Row, to_micros
from cnap_runner.store.schema import agents as known
from cnap_runner.store.schema import leases
from cnap_runner.store.transactions import agents

WAITS_FOR = timedelta(seconds=5)
"""Whoever has not said for so long that it waits is passed over, though its process lives: that may be suspended. Its number stays its own."""

_LINE: sa.Select[Any] = (
    sa.select(leases.c.agent_id, leases.c.manager_id, leases.c.waits_at)
    .where(leases.c.ticket.is_not(None))
    .order_by(leases.c.ticket)
)
_MINE = sa.and_(leases.c.agent_id == sa.bindparam("of_agent"), leases.c.manager_id == sa.bindparam("by_manager"))
_HAS_PLACE = sa.select(sa.literal(1)).where(
    known.c.agent_id == sa.bindparam("of_agent"), known.c.status.in_(sorted(LIVE_STATUSES))
)
_NEXT = sa.select(sa.func.coalesce(sa.func.max(leases.c.ticket), 0) + 1).scalar_subquery()
_WAIT = (
    leases.update()
    .where(_MINE)
    .values(ticket=sa.func.coalesce(leases.c.ticket, _NEXT), waits_at=sa.bindparam("asked_at"))
)
_STILL_WAITS = leases.update().where(_MINE, leases.c.ticket.is_not(None)).values(waits_at=sa.bindparam("asked_at"))
_DROP_TICKET = leases.update().where(_MINE).values(ticket=None)


def reserve_start(
    tx: sa.Connection,
    record: RunnerRecord,
    *,
    manager_id: str,
    max_containers: int,
    at: datetime,
    is_alive: IsAlive | None,
) -> bool:
    """Save a record if a place is left after those of others, and of those who came before; else stand in line. Raises `LeaseLost`."""
    line = tx.execute(_LINE).all()
    before = [row for row in _before(record.agent_id, line) if _waits(row, at, is_alive)]
    if before and tx.execute(_HAS_PLACE, {"of_agent": record.agent_id}).first() is not None:
        before = []  # it takes nobody's
    mine = {"of_agent": record.agent_id, "by_manager": manager_id}
    if agents.reserve_start(tx, record, manager_id=manager_id, max_containers=max_containers - len(before)):
        if line:
            tx.execute(_DROP_TICKET, mine)
        return True
    tx.execute(_WAIT, {**mine, "asked_at": to_micros(at)})
    return False


def still_waits(tx: sa.Connection, agent_id: str, manager_id: str, *, at: datetime) -> None:
    """Note that somebody in line waits there, though nothing is asked."""
    tx.execute(_STILL_WAITS, {"of_agent": agent_id, "by_manager": manager_id, "asked_at": to_micros(at)})


def waiting(tx: sa.Connection, is_alive: IsAlive, *, at: datetime) -> list[str]:
    """Who stands in line and says so; the next one first."""
    return [row.agent_id for row in tx.execute(_LINE) if _waits(row, at, is_alive)]


def _waits(row: Row, at: datetime, is_alive: IsAlive | None) -> bool:
    return (row.waits_at or 0) > to_micros(at - WAITS_FOR) and (is_alive is None or is_alive(row.manager_id))


def _before(agent_id: str, line: Sequence[Row]) -> Sequence[Row]:
    """Those who come first: the whole line, for one who does not stand in it yet."""
    waiting = [row.agent_id for row in line]
    return line[: waiting.index(agent_id)] if agent_id in waiting else line
