"""Holds: who wants an agent's instance to stay, and until when."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from cnap_runner.model.hold import Hold
from cnap_runner.store.codec import Row, from_micros, to_micros
from cnap_runner.store.schema import agents, holds
from cnap_runner.store.transactions import agents as known_agents

_ONE = sa.and_(holds.c.agent_id == sa.bindparam("of_agent"), holds.c.owner == sa.bindparam("by_owner"))


def put(tx: sa.Connection, hold: Hold, *, at: datetime) -> None:
    """Write a hold, or move the end of the same owner's one; raises `RunnerNotFound`."""
    known_agents.get(tx, hold.agent_id)
    key = {"of_agent": hold.agent_id, "by_owner": hold.owner}
    until = to_micros(hold.until)
    if not tx.execute(holds.update().where(_ONE).values(until=until), key).rowcount:
        values = {"agent_id": hold.agent_id, "owner": hold.owner, "until": until, "created_at": to_micros(at)}
        tx.execute(holds.insert().values(values))
    _look_again(tx, hold.agent_id, until)


def drop(tx: sa.Connection, agent_id: str, owner: str, *, at: datetime) -> bool:
    """Remove a hold, and let the keeper look at the agent now; tell whether there was one."""
    if not tx.execute(holds.delete().where(_ONE), {"of_agent": agent_id, "by_owner": owner}).rowcount:
        return False
    _look_again(tx, agent_id, to_micros(at))
    return True


def list_valid(tx: sa.Connection, *, at: datetime) -> list[Hold]:
    """Those that are not over, by agent and owner."""
    query = sa.select(holds).where(holds.c.until > to_micros(at)).order_by(holds.c.agent_id, holds.c.owner)
    return [_hold(row) for row in tx.execute(query)]


def has_over(tx: sa.Connection, *, at: datetime) -> bool:
    """Whether there are any whose end has come."""
    return tx.execute(sa.select(sa.literal(1)).where(holds.c.until <= to_micros(at)).limit(1)).first() is not None


def drop_over(tx: sa.Connection, *, at: datetime) -> list[Hold]:
    """Remove and return those whose end has come."""
    query = holds.delete().where(holds.c.until <= to_micros(at)).returning(holds)
    return sorted((_hold(row) for row in tx.execute(query)), key=lambda hold: (hold.agent_id, hold.owner))


def _look_again(tx: sa.Connection, agent_id: str, at: int) -> None:
    tx.execute(agents.update().where(agents.c.agent_id == agent_id, agents.c.due_at > at).values(due_at=at))


def _hold(row: Row) -> Hold:
    return Hold(row.agent_id, row.owner, from_micros(row.until))
