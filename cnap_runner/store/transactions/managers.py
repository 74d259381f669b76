"""The install's id, and its managers."""

from __future__ import annotations

import secrets
import string
from datetime import datetime

import sqlalchemy as sa

from cnap_runner.store.base import IsAlive
from cnap_runner.store.codec import to_micros
from cnap_runner.store.schema import agent_uses, install, managers

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
    """Drop the dead ones' rows; their leases and uses go with them."""
    dead = [known for known in tx.execute(sa.select(managers.c.manager_id)).scalars() if not is_alive(known)]
    for manager_id in dead:
        _drop(tx, manager_id)
    return dead


_USES = (
    sa.select(agent_uses.c.agent_id)
    .where(agent_uses.c.manager_id == sa.bindparam("manager_id"))
    .order_by(agent_uses.c.agent_id)
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


_OTHER_USERS = sa.select(agent_uses.c.manager_id).where(
    agent_uses.c.agent_id == sa.bindparam("agent_id"), agent_uses.c.manager_id != sa.bindparam("manager_id")
)
_END_USE = agent_uses.delete().where(
    agent_uses.c.manager_id == sa.bindparam("by_manager"), agent_uses.c.agent_id == sa.bindparam("of_agent")
)


def end_use(tx: sa.Connection, manager_id: str, agent_id: str, is_alive: IsAlive) -> bool:
    """Drop one use; tell whether no other living manager uses the agent."""
    tx.execute(_END_USE, {"by_manager": manager_id, "of_agent": agent_id})
    others = tx.execute(_OTHER_USERS, {"manager_id": manager_id, "agent_id": agent_id}).scalars().all()
    return not any(is_alive(other) for other in others)


def sign_off(tx: sa.Connection, manager_id: str, is_alive: IsAlive) -> list[str]:
    """Drop a manager's row; return the agents it used that no other living one uses."""
    used = tx.execute(_USES, {"manager_id": manager_id}).scalars().all()
    others = tx.execute(sa.select(managers.c.manager_id).where(managers.c.manager_id != manager_id)).scalars().all()
    kept: set[str] = set()
    for other in others:
        if is_alive(other):
            kept.update(tx.execute(_USES, {"manager_id": other}).scalars())
    _drop(tx, manager_id)
    return [agent_id for agent_id in used if agent_id not in kept]


def _drop(tx: sa.Connection, manager_id: str) -> None:
    tx.execute(managers.delete().where(managers.c.manager_id == manager_id))
