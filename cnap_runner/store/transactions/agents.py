"""Agents, their runners' records, and their tasks' sessions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from cnap_runner.errors import ConflictError, InstanceExited, LeaseLost, RunnerNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord
from cnap_runner.model.runner import LIVE_STATUSES, TRANSITIONS, RunnerRecord, RunnerStatus
from cnap_runner.store.base import AgentRow, TurnContext
from cnap_runner.store.codec import agent_from_row, runner_from_row, runner_values, spec_to_text, to_micros
from cnap_runner.store.schema import agent_uses, agents, holds, sessions, tasks, wishes
from cnap_runner.store.transactions import leases

_AGENT = agents.c.agent_id == sa.bindparam("of_agent")
_KNOWN = sa.select(agents).where(_AGENT, agents.c.deleted_at.is_(None))
_DELETED = sa.select(agents).where(agents.c.deleted_at.is_not(None)).order_by(agents.c.agent_id)
_ALL_KNOWN = sa.select(agents).where(agents.c.deleted_at.is_(None)).order_by(agents.c.agent_id)


_Columns = NamedTuple("_Columns", [(name, Any) for name in agents.c.keys()])  # type: ignore[misc]  # noqa: SIM118


def _quick(rows: Iterable[sa.Row[Any]]) -> Iterator[Any]:
    """Rows of all columns of ``agents``, read by place and not by name: of thousands that takes half the time."""
    return map(_Columns._make, rows)


def not_found(agent_id: str) -> RunnerNotFound:
    """The error for an agent that is not known."""
    return RunnerNotFound(f"There is no agent {agent_id!r}.")


# --- agents -----------------------------------------------------------------------------------------------------------


def put(tx: sa.Connection, spec: AgentSpec, *, at: datetime, expected: AgentSpec | None = None) -> AgentRow:
    """Create an agent, or replace its spec, which must be the expected one, and undo its deletion. Its runner's record stays."""
    if expected is not None and get(tx, spec.agent_id).spec != expected:
        raise ConflictError(f"The spec of agent {spec.agent_id} was changed by somebody else.", hint="Read it anew.")
    now = to_micros(at)
    text = spec_to_text(spec)
    change: dict[str, Any] = {"spec": text, "updated_at": now, "deleted_at": None}
    # Another spec deserves another try.
    is_same = agents.c.spec == text
    second_chance = {
        "gave_up_at": sa.case((is_same, agents.c.gave_up_at), else_=None),
        "forgiven_at": sa.case((is_same, agents.c.forgiven_at), else_=now),
    }
    row = tx.execute(
        agents.update().where(_AGENT).values(change | second_chance).returning(agents), {"of_agent": spec.agent_id}
    ).first()
    if row is None:
        new = {"agent_id": spec.agent_id, "created_at": now, **change, **runner_values(RunnerRecord(spec.agent_id))}
        row = tx.execute(agents.insert().values(new).returning(agents)).one()
    return agent_from_row(row)


def get(tx: sa.Connection, agent_id: str) -> AgentRow:
    """An agent that is not deleted; raises `RunnerNotFound`."""
    row = tx.execute(_KNOWN, {"of_agent": agent_id}).first()
    if row is None:
        raise not_found(agent_id)
    return agent_from_row(row)


def list_known(tx: sa.Connection) -> list[AgentRow]:
    """All agents that are not deleted, by id."""
    return [agent_from_row(row) for row in _quick(tx.execute(_ALL_KNOWN))]


def list_runners(tx: sa.Connection, statuses: Collection[RunnerStatus]) -> list[RunnerRecord]:
    """The runners' records of agents that are not deleted, of some statuses, by id."""
    query = _ALL_KNOWN.where(agents.c.status.in_(sorted(statuses)))
    return [runner_from_row(row) for row in _quick(tx.execute(query))]


def named_instances(tx: sa.Connection) -> set[str]:
    """The instances that records of agents that are not deleted name."""
    named = sa.select(agents.c.instance_id).where(agents.c.deleted_at.is_(None), agents.c.instance_id.is_not(None))
    return set(tx.execute(named).scalars())


def list_deleted(tx: sa.Connection) -> list[AgentRow]:
    """All agents that are marked deleted, by id."""
    return [agent_from_row(row) for row in _quick(tx.execute(_DELETED))]


def mark_deleted(tx: sa.Connection, agent_id: str, *, at: datetime) -> None:
    """Mark a known agent deleted. Nobody holds it any more: a later one of that id is another one."""
    deletion = agents.update().where(_AGENT, agents.c.deleted_at.is_(None)).values(deleted_at=to_micros(at))
    tx.execute(deletion, {"of_agent": agent_id})
    tx.execute(holds.delete().where(holds.c.agent_id == agent_id))


def erase(tx: sa.Connection, agent_id: str) -> None:
    """Drop an agent's row, and with it its ledger and sessions; uses, wishes and tasks too. Its lease stays with whoever has it."""
    for table in (agents, agent_uses, wishes, tasks):
        tx.execute(table.delete().where(table.c.agent_id == agent_id))


def erase_deleted(tx: sa.Connection, agent_id: str) -> bool:
    """Drop an agent's row as `erase` does, if it is marked deleted."""
    row = tx.execute(sa.select(agents.c.deleted_at).where(_AGENT), {"of_agent": agent_id}).first()
    if row is None or row.deleted_at is None:
        return False
    erase(tx, agent_id)
    return True


# --- runners ----------------------------------------------------------------------------------------------------------

_LEASED = leases.is_held(agents.c.agent_id, sa.bindparam("by_manager", type_=sa.Text))
_ANY_RECORD: dict[str, Any] = {name: sa.bindparam(name) for name in runner_values(RunnerRecord("any"))}
_SAVE = agents.update().where(_AGENT, _LEASED).values(_ANY_RECORD)

_SAME_INSTANCE = agents.c.instance_id.is_not_distinct_from(sa.bindparam("same_instance", type_=sa.Text))
_IS_FAILED = agents.c.status == RunnerStatus.FAILED.value
_SAVE_UNLESS_DEAD = _SAVE.where(~sa.and_(_IS_FAILED, _SAME_INSTANCE))
_MAY_FOLLOW_DEATH = TRANSITIONS[RunnerStatus.FAILED] | {RunnerStatus.FAILED}

_other = agents.alias("other")
_PLACES_TAKEN = (
    sa.select(sa.func.count())
    .where(_other.c.agent_id != sa.bindparam("of_agent"), _other.c.status.in_(sorted(LIVE_STATUSES)))
    .scalar_subquery()
)
_RESERVE = _SAVE.where(sa.bindparam("max_containers", type_=sa.Integer) > _PLACES_TAKEN)

_DIES = agents.c.status.in_(
    [s.value for s in (RunnerStatus.STARTING, RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED)]
)
_NOTE_DEATH = (
    agents.update()
    .where(_AGENT, _SAME_INSTANCE, _DIES)
    .values(
        status=RunnerStatus.FAILED.value,
        reason=sa.bindparam("reason"),
        changed_at=sa.bindparam("changed_at"),
        endpoint=None,
        due_at=None,
    )
)
_TURN_ENDED = agents.update().where(_AGENT).values(last_active_at=sa.bindparam("last_active_at"))
_TURN_GIVEN_UP = (
    agents.update()
    .where(_AGENT, agents.c.status == RunnerStatus.RUNNING.value)
    .where(
        leases.is_held_for(
            agents.c.agent_id, sa.bindparam("by_manager", type_=sa.Text), sa.bindparam("held_for", type_=sa.Text)
        )
    )
    .values(status=RunnerStatus.READY.value, changed_at=sa.bindparam("now"), due_at=sa.bindparam("now"))
)
_TURN_ENDED_WELL = _SAVE.where(~_IS_FAILED, _SAME_INSTANCE).values(last_active_at=sa.bindparam("last_active_at"))


def reserve_start(tx: sa.Connection, record: RunnerRecord, *, manager_id: str, max_containers: int) -> bool:
    """Save a record if the other agents leave a place; raises `LeaseLost`."""
    if tx.execute(_RESERVE, {**_saving(record, manager_id), "max_containers": max_containers}).rowcount:
        return True
    _check_leased(tx, record.agent_id, manager_id)
    return False


def save_runner(tx: sa.Connection, record: RunnerRecord, *, manager_id: str) -> None:
    """Replace a record; raises `LeaseLost`, or `InstanceExited` where it denies a death already noted."""
    statement = _SAVE if record.status in _MAY_FOLLOW_DEATH else _SAVE_UNLESS_DEAD
    values = _saving(record, manager_id)
    if statement is _SAVE_UNLESS_DEAD:
        values["same_instance"] = record.instance_id
    if tx.execute(statement, values).rowcount:
        return
    _check_leased(tx, record.agent_id, manager_id)
    present = runner_from_row(tx.execute(sa.select(agents).where(_AGENT), {"of_agent": record.agent_id}).one())
    raise InstanceExited(f"The instance of agent {record.agent_id} has ended: {present.reason or 'nobody knows why'}.")


def note_death(tx: sa.Connection, agent_id: str, instance_id: str, *, reason: str, at: datetime) -> bool:
    """Set a present instance's record to failed, where it should be alive."""
    death = runner_values(RunnerRecord(agent_id, reason=reason, changed_at=at))
    values = {name: death[name] for name in ("reason", "changed_at")}
    return tx.execute(_NOTE_DEATH, {"of_agent": agent_id, "same_instance": instance_id, **values}).rowcount > 0


def give_up(tx: sa.Connection, agent_id: str, *, at: datetime) -> bool:
    """Note that nothing is to be started for an agent, unless that is noted already."""
    unless_noted = agents.update().where(_AGENT, agents.c.gave_up_at.is_(None)).values(gave_up_at=to_micros(at))
    return tx.execute(unless_noted, {"of_agent": agent_id}).rowcount > 0


def forgive(tx: sa.Connection, agent_id: str, *, at: datetime) -> bool:
    """Let an agent be started again, and tell whether it had been given up."""
    had = tx.execute(sa.select(agents.c.gave_up_at).where(_AGENT), {"of_agent": agent_id}).scalar() is not None
    pardon = agents.update().where(_AGENT).values(gave_up_at=None, forgiven_at=to_micros(at))
    tx.execute(pardon, {"of_agent": agent_id})
    return had


def note_turn_end(tx: sa.Connection, run: RunRecord, runner: RunnerRecord | None, at: datetime) -> None:
    """Set ``last_active_at``, and the record where one is given, its instance is still the present one, and nobody saw it die.

    Where none is given, one that says that it is in this very run's turn becomes ready, and its keeper has a look at it at once.
    """
    agent_id, now = run.agent_id, to_micros(at)
    if runner is not None:
        values = {**_saving(runner, run.owner), "same_instance": runner.instance_id, "last_active_at": now}
        if tx.execute(_TURN_ENDED_WELL, values).rowcount:
            return
    else:
        purpose = leases.purpose_of_run(run.run_id)
        tx.execute(_TURN_GIVEN_UP, {"of_agent": agent_id, "by_manager": run.owner, "held_for": purpose, "now": now})
    tx.execute(_TURN_ENDED, {"of_agent": agent_id, "last_active_at": now})


def _saving(record: RunnerRecord, manager_id: str) -> dict[str, Any]:
    return {"of_agent": record.agent_id, "by_manager": manager_id, **runner_values(record)}


def _check_leased(tx: sa.Connection, agent_id: str, manager_id: str) -> None:
    lease = leases.get(tx, agent_id)
    if lease is None or lease.manager_id != manager_id:
        raise LeaseLost(f"Manager {manager_id} does not have the lease of agent {agent_id}.")
    if tx.execute(sa.select(sa.literal(1)).where(_AGENT), {"of_agent": agent_id}).first() is None:
        raise not_found(agent_id)


# --- sessions ---------------------------------------------------------------------------------------------------------

_TASK = sa.and_(sessions.c.agent_id == sa.bindparam("of_agent"), sessions.c.task_id == sa.bindparam("of_task"))
_SESSION = sa.select(sessions.c.session_id).where(_TASK)


def turn_context(tx: sa.Connection, agent_id: str, task_id: str) -> TurnContext:
    """A known agent, and the session of one of its tasks."""
    return TurnContext(get(tx, agent_id), session_of(tx, agent_id, task_id))


def session_of(tx: sa.Connection, agent_id: str, task_id: str) -> str | None:
    """The session of a task, if it has one."""
    return tx.execute(_SESSION, {"of_agent": agent_id, "of_task": task_id}).scalar()


def sessions_of(tx: sa.Connection, agent_id: str) -> dict[str, str]:
    """The sessions of an agent's tasks, by task."""
    rows = tx.execute(
        sa.select(sessions.c.task_id, sessions.c.session_id)
        .where(sessions.c.agent_id == agent_id)
        .order_by(sessions.c.task_id)
    )
    return {row.task_id: row.session_id for row in rows}


def set_session(tx: sa.Connection, agent_id: str, task_id: str, session_id: str | None) -> None:
    """Remember or forget the session of a task; raises `RunnerNotFound` for an agent that is not in the store at all."""
    tx.execute(sessions.delete().where(_TASK), {"of_agent": agent_id, "of_task": task_id})
    if session_id is None:
        return
    if tx.execute(sa.select(sa.literal(1)).where(_AGENT), {"of_agent": agent_id}).first() is None:
        raise not_found(agent_id)
    tx.execute(sessions.insert().values(agent_id=agent_id, task_id=task_id, session_id=session_id))
