"""The run ledger: an agent's entries, in the order of their places, are its queue.

Each change is made by comparing first: the entry is found by its place, which is never used twice, with the owner and the state the
caller believes it to have.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cnap_runner.errors import LeaseLost, RunNotFound, StoreError
from cnap_runner.model.counts import of_run
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.store import schema
from cnap_runner.store.base import Admission, Entry, Intent, IsAlive, Lease, NewRun, Wish
from cnap_runner.store.codec import result_to_text, run_from_row, to_micros
from cnap_runner.store.schema import runs, unfinished
from cnap_runner.store.specs import StoredSpec
from cnap_runner.store.transactions import admission, agents, counting, leases, waiting, wishes

_QUEUE = sa.select(runs).where(runs.c.agent_id == sa.bindparam("of_agent"), unfinished).order_by(runs.c.place)
_HEAD = _QUEUE.limit(1)
_AT = runs.c.place == sa.bindparam("at_place")
_SENT = (RunState.SENDING, RunState.RUNNING)
_MINE = sa.and_(_AT, runs.c.owner == sa.bindparam("by_owner"))


# --- reading ----------------------------------------------------------------------------------------------------------


def queue_of(tx: sa.Connection, agent_id: str) -> list[RunRecord]:
    """An agent's unfinished entries, in order."""
    return [run_from_row(row) for row in tx.execute(_QUEUE, {"of_agent": agent_id})]


def get(tx: sa.Connection, run_id: str) -> RunRecord:
    """One entry; raises `RunNotFound`."""
    row = tx.execute(sa.select(runs).where(runs.c.run_id == run_id)).first()
    if row is None:
        raise RunNotFound(f"There is no run {run_id!r}.")
    return run_from_row(row)


def list_newest(
    tx: sa.Connection, agent_id: str | None, *, states: Sequence[RunState] | None, limit: int
) -> list[RunRecord]:
    """Entries, newest first; of all agents and in all states where nothing else is asked for."""
    query = sa.select(runs).order_by(runs.c.place.desc()).limit(limit)
    if agent_id is not None:
        query = query.where(runs.c.agent_id == agent_id)
    if states is not None:
        query = query.where(runs.c.state.in_([state.value for state in states]))
    return [run_from_row(row) for row in tx.execute(query)]


# --- the turn ---------------------------------------------------------------------------------------------------------


_earlier = runs.alias("earlier")
_IS_HEAD = ~(
    sa.exists().where(
        _earlier.c.agent_id == runs.c.agent_id,
        _earlier.c.place < runs.c.place,
        _earlier.c.state != sa.literal_column("'ended'"),
    )
)
_CLAIM = (
    runs.update()
    .where(_MINE, runs.c.state == RunState.QUEUED.value, _IS_HEAD, ~leases.is_taken(runs.c.agent_id))
    .values(state=RunState.STARTING.value)
)
_TAKE_OVER = runs.update().where(_AT).values(owner=sa.bindparam("new_owner")).returning(runs)
_SEND = (
    runs.update()
    .where(_MINE, runs.c.state == sa.bindparam("from_state"))
    .where(leases.is_held(runs.c.agent_id, runs.c.owner), ~wishes.means_run)
    .values(
        state=RunState.SENDING.value,
        session_id=sa.bindparam("session_id"),
        instance_id=sa.bindparam("instance_id"),
        after_message_id=sa.bindparam("after_message_id"),
        sent_at=sa.bindparam("sent_at"),
    )
    .returning(runs)
)
_RESUME = (
    runs.update()
    .where(_MINE, runs.c.state.in_([state.value for state in _SENT]))
    .where(leases.is_held(runs.c.agent_id, runs.c.owner), ~wishes.means_run)
    .values(
        state=RunState.SENDING.value,
        instance_id=sa.bindparam("instance_id"),
        resumed_after=sa.bindparam("resumed_after"),
        resumes=runs.c.resumes + 1,
    )
    .returning(runs)
)
_RUN = (
    runs.update()
    .where(_MINE, runs.c.state == RunState.SENDING.value)
    .values(state=RunState.RUNNING.value)
    .returning(runs)
)
_ITS_SPEC = (
    sa.select(schema.agents.c.spec).where(schema.agents.c.agent_id == runs.c.agent_id).scalar_subquery().label("spec")
)
_END = (
    runs.update()
    .where(_MINE, unfinished)
    .values(state=RunState.ENDED.value, ended_at=sa.bindparam("ended_at"), result=sa.bindparam("result"))
    .returning(runs, _ITS_SPEC)
)


def enter_and_claim(
    tx: sa.Connection, new: NewRun, *, must_be_alone: bool, is_alive: IsAlive | None, intent: Intent | None
) -> Entry:
    """Enter a run, and with ``is_alive`` claim its turn in the same transaction where it can be, and read what it begins with.

    Where it begins as was intended, that it is sent is written, too.
    """
    outcome, run = admission.enter(tx, new, must_be_alone=must_be_alone)
    at = new.created_at
    if outcome is not Admission.ENTERED or is_alive is None or not claim_turn(tx, run, at=at, is_alive=is_alive):
        return Entry(outcome, run)
    run = replace(run, state=RunState.STARTING)
    context = agents.turn_context(tx, run.agent_id, run.task_id)
    if intent is not None and intent.holds(context):
        columns = sending_columns(intent.session_id, intent.instance_id, intent.after_message_id, at)
        answer = mark_sending(tx, run, columns, runner=context.agent.runner.turn_began(at=at))
        run = answer if isinstance(answer, RunRecord) else run
    return Entry(outcome, run, context)


def claim_turn(tx: sa.Connection, run: RunRecord, *, at: datetime, is_alive: IsAlive) -> bool:
    """From queued to starting, with the lease, if the entry is the head; raises `LeaseLost`."""
    wanted = Lease(run.agent_id, run.owner, leases.purpose_of_run(run.run_id), at)
    if not tx.execute(_CLAIM, _key(run)).rowcount:
        _check(tx, run, RunState.QUEUED)
        if not (leases.drop_if_void(tx, wanted, is_alive) and tx.execute(_CLAIM, _key(run)).rowcount):
            return False
    leases.take(tx, wanted)
    return True


def take_over(
    tx: sa.Connection, run: RunRecord, *, manager_id: str, at: datetime, is_alive: IsAlive
) -> RunRecord | None:
    """Give the head of a queue, whose owner is dead, to a living manager, with the lease."""
    head = _head(tx, run.agent_id)
    if head is None or head.place != run.place or is_alive(head.owner):
        return None
    wanted = Lease(run.agent_id, manager_id, leases.purpose_of_run(run.run_id), at)

    def has_it(holder: str) -> bool:
        # Of its own entries none may be driven; what it has the agent for besides is under way all the same.
        return holder == manager_id or is_alive(holder)

    if not (leases.drop_if_void(tx, wanted, has_it) or leases.get(tx, run.agent_id) is None):
        return None
    leases.take(tx, wanted)
    return run_from_row(tx.execute(_TAKE_OVER, {"at_place": run.place, "new_owner": manager_id}).one())


def sending_columns(session_id: str, instance_id: str, after_message_id: str | None, at: datetime) -> dict[str, Any]:
    """What an entry says of a prompt that is about to leave."""
    return {
        "session_id": session_id,
        "instance_id": instance_id,
        "after_message_id": after_message_id,
        "sent_at": to_micros(at),
    }


def mark_sending(
    tx: sa.Connection, run: RunRecord, values: dict[str, Any], *, runner: RunnerRecord | None
) -> RunRecord | Wish:
    """To sending with these columns, unless a wish means the run; raises `LeaseLost`."""
    state = RunState.SENDING if run.state is RunState.SENDING else RunState.STARTING
    return _leave(tx, run, _SEND, {**values, "from_state": state.value}, runner=runner, states=(state,))


def mark_resuming(
    tx: sa.Connection, run: RunRecord, values: dict[str, Any], *, runner: RunnerRecord | None
) -> RunRecord | Wish:
    """From sending or running back to sending with these columns, unless a wish means the run; raises `LeaseLost`.

    What instances before this one asked waits no more.
    """
    answer = _leave(tx, run, _RESUME, values, runner=runner, states=_SENT)
    if isinstance(answer, RunRecord):
        waiting.drop_of_others(tx, run.agent_id, run.run_id, instance_id=values["instance_id"])
    return answer


def _leave(
    tx: sa.Connection,
    run: RunRecord,
    statement: sa.Executable,
    values: dict[str, Any],
    *,
    runner: RunnerRecord | None,
    states: Sequence[RunState],
) -> RunRecord | Wish:
    """Note that a prompt is about to leave, in one of these states; tell why it must not, where nothing was changed."""
    row = tx.execute(statement, {**_key(run), **values}).first()
    if row is not None:
        if runner is not None:
            agents.save_runner(tx, runner, manager_id=run.owner)
        return run_from_row(row)
    _check(tx, run, *states)
    lease = leases.get(tx, run.agent_id)
    if lease is None or lease.manager_id != run.owner:
        raise _lost(run)
    return wishes.meaning(tx, run)[0]


def mark_running(tx: sa.Connection, run: RunRecord) -> tuple[RunRecord, list[Wish]]:
    """From sending to running, with the wishes that mean the run; raises `LeaseLost`."""
    row = tx.execute(_RUN, _key(run)).first()
    if row is None:
        raise _lost(run)
    return run_from_row(row), wishes.meaning(tx, run)


def finish(
    tx: sa.Connection, run: RunRecord, result: RunResult, *, runner: RunnerRecord | None, at: datetime
) -> RunRecord:
    """End an entry and count it, note the end of its agent's turn, and give back the lease it was driven under; raises `LeaseLost`."""
    row = tx.execute(_END, {**_key(run), "ended_at": to_micros(at), "result": result_to_text(result)}).first()
    if row is None:
        raise _lost(run)
    agents.note_turn_end(tx, run, runner, at)
    leases.release_run(tx, run.agent_id, run.owner, run.run_id)
    waiting.drop_of_run(tx, run.agent_id, run.run_id)
    ended = run_from_row(row)
    counting.add(tx, of_run(ended, result, models=_asked_for(ended, row.spec)))
    return ended


def _asked_for(run: RunRecord, spec: str | None) -> set[str | None]:
    """The models a run may have been given: its own, and its agent's unless that has no readable spec any more."""
    models = {run.model}
    if spec is not None:
        with suppress(StoreError):
            models.add(StoredSpec(run.agent_id, spec).model)
    return models


def _key(run: RunRecord) -> dict[str, Any]:
    return {"at_place": run.place, "by_owner": run.owner}


def _head(tx: sa.Connection, agent_id: str) -> RunRecord | None:
    row = tx.execute(_HEAD, {"of_agent": agent_id}).first()
    return None if row is None else run_from_row(row)


def _check(tx: sa.Connection, run: RunRecord, *states: RunState) -> None:
    mine = sa.select(sa.literal(1)).where(_MINE, runs.c.state.in_([state.value for state in states]))
    if tx.execute(mine, _key(run)).first() is None:
        raise _lost(run)


def _lost(run: RunRecord) -> LeaseLost:
    return LeaseLost(f"Run {run.run_id} is not {run.owner}'s any more, or not in the state it was believed to be in.")
