"""Entering a run into the ledger: once per idempotency key."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cnap_runner.errors import IdempotencyConflict, RunInProgress
from cnap_runner.model.run import RunRecord, RunState
from cnap_runner.store.base import Admission, NewRun
from cnap_runner.store.codec import run_from_row, to_micros
from cnap_runner.store.schema import agents, runs, unfinished
from cnap_runner.store.transactions import agents as known_agents

NOT_SENT = "not_sent"
"""Error code of a run whose prompt certainly never left: the only one that may be sent under its key after it ended."""

_COLUMNS = (
    "run_id",
    "agent_id",
    "task_id",
    "state",
    "owner",
    "fingerprint",
    "idempotency_key",
    "model",
    "created_at",
    "on_interrupt",
)
_AGENT = sa.and_(agents.c.agent_id == sa.bindparam("agent_id", type_=sa.Text), agents.c.deleted_at.is_(None))
_BUSY = sa.exists().where(runs.c.agent_id == agents.c.agent_id, unfinished)
_VALUES = (
    sa.select(*(sa.bindparam(name, type_=runs.c[name].type) for name in _COLUMNS)).select_from(agents).where(_AGENT)
)
_ENTER = runs.insert().from_select(_COLUMNS, _VALUES).returning(runs)
_ENTER_ALONE = runs.insert().from_select(_COLUMNS, _VALUES.where(~_BUSY)).returning(runs)
_IS_KNOWN = sa.select(sa.literal(1)).select_from(agents).where(_AGENT)
_OF_KEY = sa.select(runs).where(
    runs.c.agent_id == sa.bindparam("agent_id"), runs.c.idempotency_key == sa.bindparam("key")
)


def enter(tx: sa.Connection, new: NewRun, *, must_be_alone: bool) -> tuple[Admission, RunRecord]:
    """Enter a run at the end of its agent's queue, or find the entry of its key, as `Store.enter_run` says."""
    run_id = new.run_id
    if new.idempotency_key is not None:
        present = _of_key(tx, new)
        if present is not None and not _may_be_sent_again(present):
            return Admission.ATTACHED, present
        if present is not None:
            # It keeps its id, for its caller may know it, but loses its place: the queue went on without it.
            run_id = present.run_id
            tx.execute(runs.delete().where(runs.c.place == present.place))
    row = tx.execute(_ENTER_ALONE if must_be_alone else _ENTER, _row(new, run_id)).first()
    if row is None:
        _check_known(tx, new.agent_id)
        raise RunInProgress(f"Agent {new.agent_id} has an unfinished run.")
    return Admission.ENTERED, run_from_row(row)


def _row(new: NewRun, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "agent_id": new.agent_id,
        "task_id": new.task_id,
        "state": RunState.QUEUED.value,
        "owner": new.owner,
        "fingerprint": new.fingerprint,
        "idempotency_key": new.idempotency_key,
        "model": new.model,
        "created_at": to_micros(new.created_at),
        "on_interrupt": new.on_interrupt,
    }


def _of_key(tx: sa.Connection, new: NewRun) -> RunRecord | None:
    _check_known(tx, new.agent_id)
    row = tx.execute(_OF_KEY, {"agent_id": new.agent_id, "key": new.idempotency_key}).first()
    if row is None:
        return None
    if row.fingerprint != new.fingerprint:
        raise IdempotencyConflict(f"Key {new.idempotency_key!r} belongs to another request of agent {new.agent_id}.")
    return run_from_row(row)


def _may_be_sent_again(run: RunRecord) -> bool:
    return run.result is not None and run.result.error is not None and run.result.error.code == NOT_SENT


def _check_known(tx: sa.Connection, agent_id: str) -> None:
    if tx.execute(_IS_KNOWN, {"agent_id": agent_id}).first() is None:
        raise known_agents.not_found(agent_id)
