"""The install's keeper: the one process that lives for nothing but the agents others left warm."""

from __future__ import annotations

import sqlalchemy as sa

from cnap_runner.model.runner import LIVE_STATUSES
from cnap_runner.store.base import IsAlive
from cnap_runner.store.schema import agents, managers

KEEPER = "keeper"
"""The role of its row."""

_KEEPERS = sa.select(managers.c.manager_id).where(managers.c.role == KEEPER)
_ME = managers.c.manager_id == sa.bindparam("me")
_LIVE = (
    sa.select(sa.literal(1)).where(agents.c.deleted_at.is_(None), agents.c.status.in_(sorted(LIVE_STATUSES))).limit(1)
)


def find(tx: sa.Connection, is_alive: IsAlive) -> str | None:
    """The id of the manager that is the keeper, if one lives."""
    return next((known for known in tx.execute(_KEEPERS).scalars() if is_alive(known)), None)


def claim(tx: sa.Connection, manager_id: str, is_alive: IsAlive) -> bool:
    """Make a registered manager the keeper, unless another one lives; tell whether it is."""
    present = find(tx, is_alive)
    if present is None:
        return tx.execute(managers.update().where(_ME).values(role=KEEPER), {"me": manager_id}).rowcount > 0
    return present == manager_id


def retire(tx: sa.Connection, manager_id: str) -> bool:
    """Drop the keeper's row if no agent has a live instance; tell whether it was dropped.

    Whoever leaves an agent warm writes that first and looks for a keeper then: it either finds one that will see the agent, or none.
    """
    if tx.execute(_LIVE).first() is not None:
        return False
    tx.execute(managers.delete().where(_ME), {"me": manager_id})
    return True
