"""An agent's container ends with the last of its tasks (FR-008), unless somebody else wants it."""

from __future__ import annotations

import anyio

from cnap_runner.errors import RunnerError
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.model.task import TaskRecord
from cnap_runner.runner.parts import Parts
from cnap_runner.telemetry.logging import get_logger

_IDLE = frozenset({RunnerStatus.READY, RunnerStatus.PAUSED})

_log = get_logger(__name__)


async def let_go(parts: Parts, task: TaskRecord) -> None:
    """Stop the agent's instance, if it is idle and no other living manager uses it. Raises no `RunnerError`: the task is over either way,
    and what is left running is ended by the rules for idle agents."""
    install = parts.install
    try:
        if not await install.store.acquire_lease(
            task.agent_id, install.manager_id, "task-end", at=install.now(), is_alive=install.is_alive
        ):
            return
        try:
            await _stop_idle(parts, task)
        finally:
            with anyio.CancelScope(shield=True):
                await install.store.release_lease(task.agent_id, install.manager_id)
    except RunnerError as error:
        _log.warning("agent_not_let_go", agent_id=task.agent_id, error=install.redactor.redact(str(error)))


async def _stop_idle(parts: Parts, task: TaskRecord) -> None:
    store = parts.install.store
    row = await store.get_agent(task.agent_id)
    if row.runner.status not in _IDLE or await store.queue_of(task.agent_id):
        return
    if not await store.end_use(parts.install.manager_id, task.agent_id, parts.install.is_alive):
        return
    parts.runs.used.discard(task.agent_id)
    await parts.instances.end(
        row.runner, reason=f"its last task, {task.task_id}, is {task.state}", evidence={"task_id": task.task_id}
    )
