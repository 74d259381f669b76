"""An agent's container ends with the last of its tasks (FR-008), unless somebody else wants it."""

from __future__ import annotations

from cnap_runner.errors import RunnerError
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.task import TaskRecord
from cnap_runner.runner.parts import Parts
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


async def let_go(parts: Parts, task: TaskRecord) -> None:
    """Stop the agent's instance if it is idle (no run, no hold, no pending answer) and no other living manager uses it.

    Raises no `RunnerError`: the task is over either way, and what is left running is ended by the rules for idle agents.
    """
    try:
        await _stop_idle(parts, task)
    except RunnerError as error:
        reason = parts.install.redactor.redact(str(error))
        _log.warning("agent_not_let_go", agent_id=task.agent_id, task_id=task.task_id, error=reason)


async def _stop_idle(parts: Parts, task: TaskRecord) -> None:
    install, store = parts.install, parts.install.store
    live = {one.standing.agent_id: one for one in await store.list_kept(now=install.now())}
    kept = live.get(task.agent_id)
    if kept is None or not await store.end_use(install.manager_id, task.agent_id, install.is_alive):
        return
    parts.runs.used.discard(task.agent_id)
    reason = f"its last task, {task.task_id}, is {task.state}"
    await parts.instances.steps.stop_idle(kept, reason=reason, kind=DecisionKind.STOPPED)
