"""The places of ``max_containers``, and the line of those who wait for one: first come, first served, over all managers.

A ticket is a column of the lease that whoever starts an agent holds, so it is gone with the lease, however that ends.
"""

from __future__ import annotations

import sqlalchemy as sa

from cnap_runner.model.runner import LIVE_STATUSES, RunnerRecord
from cnap_runner.store.base import IsAlive
from cnap_runner.store.schema import agents as known
from cnap_runner.store.schema import leases
from cnap_runner.store.transactions import agents

_LINE = sa.select(leases.c.agent_id, leases.c.manager_id).where(leases.c.ticket.is_not(None)).order_by(leases.c.ticket)
_MINE = sa.and_(leases.c.agent_id == sa.bindparam("of_agent"), leases.c.manager_id == sa.bindparam("by_manager"))
_HAS_PLACE = sa.select(sa.literal(1)).where(
    known.c.agent_id == sa.bindparam("of_agent"), known.c.status.in_(sorted(LIVE_STATUSES))
)
_NEXT = sa.select(sa.func.coalesce(sa.func.max(leases.c.ticket), 0) + 1).scalar_subquery()
_TAKE_TICKET = leases.update().where(_MINE, leases.c.ticket.is_(None)).values(ticket=_NEXT)
_DROP_TICKET = leases.update().where(_MINE).values(ticket=None)


def reserve_start(
    tx: sa.Connection, record: RunnerRecord, *, manager_id: str, max_containers: int, is_alive: IsAlive | None
) -> bool:
    """Save a record if a place is left after those of others, and of those who came before; else stand in line. Raises `LeaseLost`."""
    line = [(row.agent_id, row.manager_id) for row in tx.execute(_LINE)]
    before = _before(record.agent_id, line)
    if is_alive is not None:
        before = [waiting for waiting in before if is_alive(waiting[1])]
    if before and tx.execute(_HAS_PLACE, {"of_agent": record.agent_id}).first() is not None:
        before = []  # it takes nobody's
    mine = {"of_agent": record.agent_id, "by_manager": manager_id}
    if agents.reserve_start(tx, record, manager_id=manager_id, max_containers=max_containers - len(before)):
        if line:
            tx.execute(_DROP_TICKET, mine)
        return True
    tx.execute(_TAKE_TICKET, mine)
    return False


def waiting(tx: sa.Connection, is_alive: IsAlive) -> list[str]:
    """Who stands in line, of managers that live; the next one first."""
    return [row.agent_id for row in tx.execute(_LINE) if is_alive(row.manager_id)]


def _before(agent_id: str, line: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those who come first: the whole line, for one who does not stand in it yet."""
    waiting = [name for name, _ in line]
    return line[: waiting.index(agent_id)] if agent_id in waiting else line
