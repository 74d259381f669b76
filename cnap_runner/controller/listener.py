"""TaskListener: who is told what becomes of tasks, and the one place that tells."""

from __future__ import annotations

from typing import Protocol

from cnap_runner.model.task import TaskRecord, TaskState
from cnap_runner.runner.turns.callbacks import Audience, StatusCallback
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


class TaskListener(StatusCallback, Protocol):
    """A `StatusCallback` of all runs of an executor's tasks, which is also told each change of a task. Override what you need.

    What a turn brings is told one after the other, in order: the task's new state first, then how its run ended. A cancellation may be told
    in between. A call that raises is logged and breaks nothing; one that takes long holds its task up. None may wait for the end of its
    own task.
    """

    async def on_task(self, task: TaskRecord, /) -> None:  # noqa: ARG002 - a hook
        """The task's state changed. Told once for each change that this process made or whose turn it drove."""
        return


class News:
    """Tells a listener what happens to tasks."""

    def __init__(self, listener: TaskListener | None, manager_id: str) -> None:
        self._listener = listener
        self._manager_id = manager_id
        self._canceled: set[str] = set()
        """Tasks whose cancellation was told and whose turn, driven here, has not ended yet: its end is no second one."""

    def audience(self, task_id: str) -> Audience:
        """Give what tells the events of a task's run."""
        return Audience(task_id, self._listener)

    async def changed(self, task: TaskRecord) -> None:
        """Tell a task's new state, once."""
        if task.state is TaskState.CANCELED:
            if task.task_id in self._canceled:
                if task.owner is None:
                    self._canceled.discard(task.task_id)
                return
            if task.owner == self._manager_id:
                self._canceled.add(task.task_id)
        tell = getattr(self._listener, "on_task", None)
        if tell is None:
            return
        try:
            await tell(task)
        except Exception:  # noqa: BLE001 - whatever a caller's code raises must not break the task
            _log.warning("listener_failed", task_id=task.task_id, exc_info=True)
