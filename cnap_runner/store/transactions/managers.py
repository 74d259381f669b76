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
_IS_USED = sa.select(sa.literal(1)).where(
    agent_uses.c.manager_id == sa.bindparam("manager_id"), agent_uses.c.agent_id == sa.bindparam("agent_id")
)


def note_use(tx: sa.Connection, manager_id: str, agent_id: str) -> None:
    """Remember that a manager uses an agent, once."""
    use = {"manager_id": manager_id, "agent_id": agent_id}
    if tx.execute(_IS_USED, use).first() is None:
        tx.execute(agent_uses.insert(), use)


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
