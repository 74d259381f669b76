"""A task: one line of work for an agent, done in turns that somebody asks for one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from cnap_runner.errors import InvalidTransition
from cnap_runner.model.edge import EdgeModel
from cnap_runner.model.ids import AgentId, TaskId


class TaskState(StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    """Known; no turn of it was asked for yet."""
    RUNNING = "running"
    """A turn was accepted and has not ended: it waits for its place, its instance is made ready, or the agent works."""
    WAITING = "waiting"
    """Its last turn succeeded; it waits for the next one, or to be completed."""
    COMPLETED = "completed"
    FAILED = "failed"
    """Its last turn did not succeed; `TaskRecord.reason` says why. Session and files are there, so it may go on."""
    CANCELED = "canceled"
    DELETED = "deleted"
    """Hidden. Its id is never used again, for the ledger knows its turns by it."""


_S = TaskState

TASK_TRANSITIONS: MappingProxyType[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.RUNNING, _S.CANCELED, _S.DELETED}),
        _S.RUNNING: frozenset({_S.WAITING, _S.FAILED, _S.CANCELED}),
        _S.WAITING: frozenset({_S.RUNNING, _S.COMPLETED, _S.CANCELED, _S.DELETED}),
        _S.FAILED: frozenset({_S.RUNNING, _S.CANCELED, _S.DELETED}),
        _S.COMPLETED: frozenset({_S.DELETED}),
        _S.CANCELED: frozenset({_S.DELETED}),
        _S.DELETED: frozenset(),
    }
)
"""What may follow what."""

OPEN_STATES = frozenset({_S.PENDING, _S.RUNNING, _S.WAITING, _S.FAILED})
"""States of tasks that may still go on."""

_SPELLED = {
    _S.COMPLETED: "Only a task whose last turn succeeded can be completed; cancel it instead.",
    _S.DELETED: "Cancel it first.",
}


def check_task_transition(task_id: str, present: TaskState, following: TaskState) -> None:
    """Raise `InvalidTransition` unless ``following`` may come after ``present``."""
    if following in TASK_TRANSITIONS[present]:
        return
    hint = _SPELLED.get(following) if present in OPEN_STATES else "Create a new task."
    raise InvalidTransition(f"Task {task_id} is {present} and cannot become {following}.", hint=hint)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as the store knows it."""

    task_id: str
    agent_id: str
    state: TaskState
    created_at: datetime
    updated_at: datetime
    """When its state last changed."""
    turns: int = 0
    """How many were begun; the number of the last one, counted from 1."""
    owner: str | None = None
    """The manager that drives a turn of it; None: no turn is under way. A canceled task has one until its turn has ended."""
    run_id: str | None = None
    """The run under way, or the last one."""
    reason: str | None = None
    """Why it is in this state, in plain words."""


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """One thing that was said in a task."""

    task_id: str
    position: int
    """From 0, without gaps."""
    role: Literal["user", "assistant"]
    content: str
    created_at: datetime
    run_id: str | None = None
    """The run that sent or answered it. None on a user's message: it certainly was not sent, and goes with the next turn."""


@dataclass(frozen=True, slots=True)
class TaskTurn:
    """A turn that was accepted: what is sent, and under which key."""

    task: TaskRecord
    messages: tuple[TaskMessage, ...]
    """The user's messages that were not sent yet, in order; at least one."""

    @property
    def key(self) -> str:
        """The idempotency key of its run."""
        return turn_key(self.task.task_id, self.task.turns)


def turn_key(task_id: str, turn: int) -> str:
    """Give the idempotency key of a task's turn.

    The ledger does one run per key, and a task's next turn takes only messages that certainly were not sent: so none is sent twice,
    whoever asks again, and whenever a manager dies.
    """
    return f"task/{task_id}/{turn}"


class TaskEvent(EdgeModel):
    """What somebody wants of a task. The executor of a queue or a chat is fed with these."""

    type: Literal["execute", "continue", "cancel", "complete"]
    """``execute`` begins a pending task, or makes a new one and begins it; ``continue`` does one more turn."""
    task_id: TaskId
    agent_id: AgentId | None = None
    """Only for ``execute`` of a task that is not known yet."""
    prompt: str | None = None
    """For ``execute`` of a new task and for ``continue``; without it, what was not sent yet is sent."""
