"""Leases: who may change or drive an agent."""

from __future__ import annotations

import sqlalchemy as sa

from cnap_runner.store.base import IsAlive, Lease
from cnap_runner.store.codec import lease_from_row, to_micros
from cnap_runner.store.schema import leases

_OF_AGENT = sa.select(leases).where(leases.c.agent_id == sa.bindparam("agent_id"))
_TAKE = leases.insert()
_RELEASE = leases.delete().where(
    leases.c.agent_id == sa.bindparam("of_agent"), leases.c.manager_id == sa.bindparam("by_manager")
)
_RELEASE_FOR = _RELEASE.where(leases.c.purpose == sa.bindparam("held_for"))
_GIVE_BACK = _RELEASE_FOR.where(leases.c.acquired_at == sa.bindparam("since"))


def purpose_of_run(run_id: str) -> str:
    """The purpose of a lease taken to drive one run."""
    return f"run:{run_id}"


def get(tx: sa.Connection, agent_id: str) -> Lease | None:
    """The agent's lease, whoever has it, dead or alive."""
    row = tx.execute(_OF_AGENT, {"agent_id": agent_id}).first()
    return None if row is None else lease_from_row(row)


def acquire(tx: sa.Connection, wanted: Lease, is_alive: IsAlive) -> bool:
    """Take a lease if nobody living has it, the same manager for something else included; tell whether it was taken."""
    present = get(tx, wanted.agent_id)
    if present is not None:
        if is_alive(present.manager_id):
            return False
        release(tx, present.agent_id, present.manager_id)
    take(tx, wanted)
    return True


def take(tx: sa.Connection, wanted: Lease) -> None:
    """Write a lease where there is none."""
    row = {
        "agent_id": wanted.agent_id,
        "manager_id": wanted.manager_id,
        "purpose": wanted.purpose,
        "acquired_at": to_micros(wanted.acquired_at),
    }
    tx.execute(_TAKE, row)


def drop_if_void(tx: sa.Connection, wanted: Lease, is_alive: IsAlive) -> bool:
    """Drop a dead manager's lease, or the very one that is wanted (`take_over` gave it); tell whether there was such a one."""
    present = get(tx, wanted.agent_id)
    if present is None:
        return False
    is_wanted = (present.manager_id, present.purpose) == (wanted.manager_id, wanted.purpose)
    if not is_wanted and is_alive(present.manager_id):
        return False
    release(tx, present.agent_id, present.manager_id)
    return True


def release(tx: sa.Connection, agent_id: str, manager_id: str) -> None:
    """Give a lease back, whatever it was taken for."""
    tx.execute(_RELEASE, {"of_agent": agent_id, "by_manager": manager_id})


def give_back(tx: sa.Connection, lease: Lease) -> None:
    """Give back this very lease."""
    held = {"of_agent": lease.agent_id, "by_manager": lease.manager_id, "held_for": lease.purpose}
    tx.execute(_GIVE_BACK, {**held, "since": to_micros(lease.acquired_at)})


def release_run(tx: sa.Connection, agent_id: str, manager_id: str, run_id: str) -> None:
    """Give a lease back if it was taken for driving this run."""
    tx.execute(_RELEASE_FOR, {"of_agent": agent_id, "by_manager": manager_id, "held_for": purpose_of_run(run_id)})


def is_held(agent_id: sa.ColumnElement[str], manager_id: sa.ColumnElement[str]) -> sa.Exists:
    """Condition: this manager has this agent's lease."""
    return sa.exists().where(leases.c.agent_id == agent_id, leases.c.manager_id == manager_id)


def is_held_for(
    agent_id: sa.ColumnElement[str], manager_id: sa.ColumnElement[str], purpose: sa.ColumnElement[str]
) -> sa.Exists:
    """Condition: this manager has this agent's lease for this purpose."""
    return is_held(agent_id, manager_id).where(leases.c.purpose == purpose)


def is_taken(agent_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Condition: somebody, dead or alive, has this agent's lease."""
    return sa.exists().where(leases.c.agent_id == agent_id)
