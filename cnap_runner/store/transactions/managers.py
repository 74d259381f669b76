"""The install's id, and its managers."""

from __future__ import annotations

import secrets
import string
from datetime import datetime

import sqlalchemy as sa

from cnap_runner.store.base import IsAlive
from cnap_runner.store.codec import to_micros
from cnap_runner.store.schema import agent_uses, install, leases, managers

_TABLES = (managers, agent_uses, leases)
_ID_CHARACTERS = string.ascii_lowercase + string.digits


def read_install_id(tx: sa.Connection) -> str | None:
    """The install's id, if it has one yet."""
    return tx.execute(sa.select(install.c.install_id)).scalar()


def make_install_id(tx: sa.Connection) -> str:
    """The install's id, made now if it has none yet."""
    if (present := read_install_id(tx)) is not None:
        return present
    made = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(12))
    tx.execute(install.insert().values(one=1, install_id=made))
    return made


def register(tx: sa.Connection, manager_id: str, *, pid: int, at: datetime) -> None:
    """Write a manager's row."""
    tx.execute(managers.insert().values(manager_id=manager_id, pid=pid, registered_at=to_micros(at)))


def forget_dead(tx: sa.Connection, is_alive: IsAlive) -> list[str]:
    """Drop rows, leases and uses of managers that do not live, also of those that signed off before."""
    named = sa.union(*(sa.select(table.c.manager_id) for table in _TABLES)).order_by("manager_id")
    dead = [known for known in tx.execute(named).scalars() if not is_alive(known)]
    for manager_id in dead:
        _drop(tx, manager_id)
    return dead


_USES = (
    sa.select(agent_uses.c.agent_id)
    .where(agent_uses.c.manager_id == sa.bindparam("manager_id"))
    .order_by(agent_uses.c.agent_id)
)
_USERS = sa.select(agent_uses.c.manager_id).where(
    agent_uses.c.agent_id == sa.bindparam("agent_id"), agent_uses.c.manager_id != sa.bindparam("manager_id")
)
_NOTE_USE = agent_uses.insert().from_select(
    ["manager_id", "agent_id"],
    sa.select(sa.bindparam("manager_id", type_=sa.Text), sa.bindparam("agent_id", type_=sa.Text)).where(
        ~sa.exists().where(
            agent_uses.c.manager_id == sa.bindparam("manager_id"), agent_uses.c.agent_id == sa.bindparam("agent_id")
        )
    ),
)


def note_use(tx: sa.Connection, manager_id: str, agent_id: str) -> None:
    """Remember that a manager uses an agent, once."""
    tx.execute(_NOTE_USE, {"manager_id": manager_id, "agent_id": agent_id})


_END_USE = agent_uses.delete().where(
    agent_uses.c.manager_id == sa.bindparam("by_manager"), agent_uses.c.agent_id == sa.bindparam("of_agent")
)


def end_use(tx: sa.Connection, manager_id: str, agent_id: str, is_alive: IsAlive) -> bool:
    """Drop one use; tell whether no other living manager uses the agent."""
    tx.execute(_END_USE, {"by_manager": manager_id, "of_agent": agent_id})
    return not _is_used_by_others(tx, agent_id, manager_id, is_alive)


def sign_off(tx: sa.Connection, manager_id: str, is_alive: IsAlive) -> list[str]:
    """Drop a manager's row, leases and uses; return the agents it used that no other living one uses."""
    used = tx.execute(_USES, {"manager_id": manager_id}).scalars().all()
    unused = [agent_id for agent_id in used if not _is_used_by_others(tx, agent_id, manager_id, is_alive)]
    _drop(tx, manager_id)
    return unused


def _is_used_by_others(tx: sa.Connection, agent_id: str, manager_id: str, is_alive: IsAlive) -> bool:
    users = tx.execute(_USERS, {"agent_id": agent_id, "manager_id": manager_id}).scalars().all()
    return any(is_alive(user) for user in users)


def _drop(tx: sa.Connection, manager_id: str) -> None:
    for table in _TABLES:
        tx.execute(table.delete().where(table.c.manager_id == manager_id))
