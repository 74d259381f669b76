"""Tasks: their states, what was said in them, and how their turns are settled from the run ledger."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cnap_runner.errors import ConflictError, InvalidInput, RunInProgress, TaskNotFound
from cnap_runner.model.run import RunRecord, RunState
from cnap_runner.model.task import (
    TaskMessage,
    TaskRecord,
    TaskState,
    TaskTurn,
    check_task_transition,
    turn_key,
)
from cnap_runner.store.base.tasks import IsDriven
from cnap_runner.store.codec import Row, from_micros, run_from_row, to_micros
from cnap_runner.store.schema import runs, task_messages, tasks
from cnap_runner.store.transactions import agents
from cnap_runner.store.transactions.admission import NOT_SENT

_TASK = tasks.c.task_id == sa.bindparam("of_task")
_ONE = sa.select(tasks).where(_TASK)
_MESSAGES = task_messages.c.task_id == sa.bindparam("of_task")
_UNSENT = sa.and_(_MESSAGES, task_messages.c.role == "user", task_messages.c.run_id.is_(None))
_SAID = sa.select(task_messages).where(_MESSAGES).order_by(task_messages.c.position)
_NEXT_POSITION = sa.select(sa.func.coalesce(sa.func.max(task_messages.c.position) + 1, 0)).where(_MESSAGES)
_RUN = sa.select(runs).where(runs.c.agent_id == sa.bindparam("of_agent"), runs.c.idempotency_key == sa.bindparam("key"))
_CANCELED = sa.select(tasks.c.task_id).where(
    tasks.c.owner == sa.bindparam("of_owner"), tasks.c.state.in_([TaskState.CANCELED.value, TaskState.DELETED.value])
)
_UNSETTLED = sa.select(tasks).where(tasks.c.owner.is_not(None)).order_by(tasks.c.task_id)


# --- reading ----------------------------------------------------------------------------------------------------------


def get(tx: sa.Connection, task_id: str) -> TaskRecord:
    """One task; raises `TaskNotFound`, for a deleted one too."""
    task = _present(tx, task_id)
    if task.state is TaskState.DELETED:
        raise _not_found(task_id)
    return task


def list_newest(
    tx: sa.Connection, agent_id: str | None, *, states: Collection[TaskState] | None, limit: int
) -> list[TaskRecord]:
    """Tasks, newest first; of all agents, and in all states but deleted, where nothing else is asked for."""
    wanted = states if states is not None else set(TaskState) - {TaskState.DELETED}
    query = sa.select(tasks).where(tasks.c.state.in_([state.value for state in wanted]))
    if agent_id is not None:
        query = query.where(tasks.c.agent_id == agent_id)
    newest = query.order_by(tasks.c.created_at.desc(), tasks.c.task_id).limit(limit)
    return [_task(row) for row in tx.execute(newest)]


def messages(tx: sa.Connection, task_id: str) -> list[TaskMessage]:
    """What was said in a task, in order."""
    get(tx, task_id)
    return [_message(row) for row in tx.execute(_SAID, {"of_task": task_id})]


def canceled_turns(tx: sa.Connection, owner: str) -> list[str]:
    """Tasks that are over and whose turn the owner has not ended yet."""
    return list(tx.execute(_CANCELED, {"of_owner": owner}).scalars())


# --- changing ---------------------------------------------------------------------------------------------------------


def create(tx: sa.Connection, task_id: str, agent_id: str, prompt: str | None, *, at: datetime) -> TaskRecord:
    """Write a pending task of a known agent, and its first message where there is one."""
    agents.get(tx, agent_id)
    if tx.execute(sa.select(tasks.c.task_id).where(_TASK), {"of_task": task_id}).first() is not None:
        raise ConflictError(f"The task id {task_id!r} was used before.", hint="Choose another, or let one be made.")
    now = to_micros(at)
    new = {"task_id": task_id, "agent_id": agent_id, "state": TaskState.PENDING.value, "turns": 0}
    tx.execute(tasks.insert().values(**new, created_at=now, updated_at=now))
    if prompt is not None:
        _say(tx, task_id, "user", prompt, at=at)
    return get(tx, task_id)


def begin_turn(
    tx: sa.Connection, task_id: str, prompt: str | None, *, allowed: Collection[TaskState], owner: str, at: datetime
) -> TaskTurn:
    """From an allowed state to running, with what was not sent yet, the new message last."""
    task = get(tx, task_id)
    if task.state is TaskState.RUNNING:
        raise RunInProgress(f"Task {task_id} has a turn under way.", hint="Wait for its end, or cancel the task.")
    check_task_transition(task_id, task.state, TaskState.RUNNING)
    if task.state not in allowed:
        raise ConflictError(f"Task {task_id} is {task.state}: it was begun before.", hint="Continue it instead.")
    agents.get(tx, task.agent_id)
    if prompt is not None:
        _say(tx, task_id, "user", prompt, at=at)
    unsent = tuple(_message(row) for row in tx.execute(_SAID.where(_UNSENT), {"of_task": task_id}))
    if not unsent:
        raise InvalidInput(f"Task {task_id} has nothing to send.", hint="Give a prompt.")
    begun = {"turns": task.turns + 1, "owner": owner, "run_id": None}
    return TaskTurn(_change(tx, task, TaskState.RUNNING, reason=None, at=at, **begun), unsent)


def note_run(tx: sa.Connection, task_id: str, *, owner: str) -> TaskRecord:
    """Remember the run of the owner's turn."""
    task = _present(tx, task_id)
    run = _run_of(tx, task)
    if task.owner == owner and run is not None:
        tx.execute(tasks.update().where(_TASK).values(run_id=run.run_id), {"of_task": task_id})
    return _present(tx, task_id)


def end_turn(tx: sa.Connection, task_id: str, *, owner: str, reason: str, at: datetime) -> TaskRecord:
    """Settle the owner's turn from the ledger, if it is not settled yet and its run has ended."""
    task = _present(tx, task_id)
    return _settle(tx, task, reason=reason, at=at) if task.owner == owner else task


def settle_turns(tx: sa.Connection, is_driven: IsDriven, *, reason: str, at: datetime) -> list[TaskRecord]:
    """Settle the turns that nobody drives; return their tasks as they then are."""
    return [_settle(tx, task, reason=reason, at=at) for task in _abandoned(tx, is_driven)]


def has_abandoned(tx: sa.Connection, is_driven: IsDriven) -> bool:
    """Whether there is a turn that is not settled and that nobody drives."""
    return bool(_abandoned(tx, is_driven))


def move(tx: sa.Connection, task_id: str, state: TaskState, *, reason: str | None, at: datetime) -> TaskRecord | None:
    """To another state, if that may follow; a turn under way keeps its owner. None: it is in that state already."""
    task = get(tx, task_id)
    if task.state is state:
        return None
    check_task_transition(task_id, task.state, state)
    return _change(tx, task, state, reason=reason, at=at)


# --- inside -----------------------------------------------------------------------------------------------------------


def _present(tx: sa.Connection, task_id: str) -> TaskRecord:
    """A task that is there, maybe marked deleted while its turn was under way. Raises `TaskNotFound` for an erased one."""
    row = tx.execute(_ONE, {"of_task": task_id}).first()
    if row is None:
        raise _not_found(task_id)
    return _task(row)


def _not_found(task_id: str) -> TaskNotFound:
    return TaskNotFound(f"There is no task {task_id!r}.", hint="`cnap-runner task list` shows those there are.")


def _abandoned(tx: sa.Connection, is_driven: IsDriven) -> list[TaskRecord]:
    return [task for task in map(_task, tx.execute(_UNSETTLED)) if not is_driven(task)]


def _settle(tx: sa.Connection, task: TaskRecord, *, reason: str, at: datetime) -> TaskRecord:
    run = _run_of(tx, task)
    if run is not None and run.state is not RunState.ENDED:
        return task
    values: dict[str, Any] = {"owner": None, "run_id": None if run is None else run.run_id}
    following, why = TaskState.FAILED, reason
    if run is not None and run.result is not None:
        if _was_sent(run):
            answered = task_messages.update().where(_UNSENT).values(run_id=run.run_id)
            tx.execute(answered, {"of_task": task.task_id})
        if run.result.output:
            _say(tx, task.task_id, "assistant", run.result.output, at=at, run_id=run.run_id)
        following = TaskState.WAITING if run.result.success else TaskState.FAILED
        why = "" if run.result.error is None else run.result.error.message
    if task.state is not TaskState.RUNNING:  # canceled meanwhile, maybe deleted: so it stays
        tx.execute(tasks.update().where(_TASK).values(values), {"of_task": task.task_id})
        return _present(tx, task.task_id)
    return _change(tx, task, following, reason=why or None, at=at, **values)


def _was_sent(run: RunRecord) -> bool:
    """Whether the prompt of an ended run may have left."""
    code = run.result.error.code if run.result is not None and run.result.error is not None else None
    return run.sent_at is not None and code != NOT_SENT


def _run_of(tx: sa.Connection, task: TaskRecord) -> RunRecord | None:
    """The run of a task's last turn."""
    key = turn_key(task.task_id, task.turns)
    row = tx.execute(_RUN, {"of_agent": task.agent_id, "key": key}).first()
    return None if row is None else run_from_row(row)


def _say(tx: sa.Connection, task_id: str, role: str, content: str, *, at: datetime, run_id: str | None = None) -> None:
    position = tx.execute(_NEXT_POSITION, {"of_task": task_id}).scalar_one()
    said = {"task_id": task_id, "position": position, "role": role, "content": content, "run_id": run_id}
    tx.execute(task_messages.insert().values(**said, created_at=to_micros(at)))


def _change(
    tx: sa.Connection, task: TaskRecord, state: TaskState, *, reason: str | None, at: datetime, **values: Any
) -> TaskRecord:
    change = {"state": state.value, "reason": reason, "updated_at": to_micros(at), **values}
    row = tx.execute(tasks.update().where(_TASK).values(change).returning(tasks), {"of_task": task.task_id}).one()
    return _task(row)


def _task(row: Row) -> TaskRecord:
    return TaskRecord(
        task_id=row.task_id,
        agent_id=row.agent_id,
        state=TaskState(row.state),
        created_at=from_micros(row.created_at),
        updated_at=from_micros(row.updated_at),
        turns=row.turns,
        owner=row.owner,
        run_id=row.run_id,
        reason=row.reason,
    )


def _message(row: Row) -> TaskMessage:
    return TaskMessage(
        task_id=row.task_id,
        position=row.position,
        role=row.role,
        content=row.content,
        created_at=from_micros(row.created_at),
        run_id=row.run_id,
    )
