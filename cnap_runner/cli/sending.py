"""Doing one turn of a task and showing it. Loaded only by the command that does one."""

from __future__ import annotations

import anyio

from cnap_runner.aio.lone import lone_errors
from cnap_runner.cli.exits import ExitCode, code_of_outcome
from cnap_runner.cli.output import note
from cnap_runner.cli.pending import warn_of_hindered
from cnap_runner.cli.printing import Printer
from cnap_runner.cli.run import CLOSING_WORDS_SECONDS, tell_place, tell_progress
from cnap_runner.controller import Executor, TaskListener, Tasks
from cnap_runner.errors import RunInProgress, RunnerError
from cnap_runner.model.events import RunEnded, RunEvent
from cnap_runner.model.run import RunResult
from cnap_runner.model.task import TaskRecord
from cnap_runner.runner.runner import Runner
from cnap_runner.wiring import RunnerManager


class _Shown(TaskListener):
    """Shows a turn's events as they come."""

    def __init__(self, runner: Runner, printer: Printer) -> None:
        self._runner = runner
        self._printer = printer
        self.result: RunResult | None = None
        self.error: RunnerError | None = None

    async def on_event(self, _task_id: str, event: RunEvent, /) -> None:
        """Show it, and keep the result."""
        tell_progress(event, self._runner, self._printer)
        self._printer.show(event)
        if isinstance(event, RunEnded):
            self.result = event.result

    async def tell_place(self, manager: RunnerManager) -> None:
        """Say that the turn waits for a place, while it does."""
        await tell_place(manager, self._runner, self._printer)

    async def on_error(self, _task_id: str, error: RunnerError, /) -> None:
        """Keep it: it is told by whoever ends the command."""
        self.error = error


async def do_turn(manager: RunnerManager, task_id: str, prompt: str | None, printer: Printer) -> ExitCode:
    """Do a task's next turn and show it; the exit code says how it ended. Raises what kept the prompt from being sent."""
    try:
        result = await _result_of_turn(manager, task_id, prompt, printer)
    except RunnerError as error:
        if isinstance(error, RunInProgress):
            error.hint = f"Wait for its end, or end the task with `cnap-runner task cancel {task_id}`."
        printer.refuse(error)
        raise
    finally:
        printer.close()
    return code_of_outcome(result.outcome)


async def _result_of_turn(manager: RunnerManager, task_id: str, prompt: str | None, printer: Printer) -> RunResult:
    task = await Tasks(manager).get(task_id)
    runner = await manager.get_runner(task.agent_id)
    await warn_of_hindered(runner)
    shown = _Shown(runner, printer)
    task = await _turn(manager, task_id, prompt, shown)
    if task.state == "canceled":
        note(f"task {task_id} was canceled with `task cancel`, and its turn with it")
    if shown.result is not None:
        printer.end(shown.result)
        return shown.result
    raise shown.error or RunnerError(task.reason or f"Task {task_id} is {task.state}.")


async def _turn(manager: RunnerManager, task_id: str, prompt: str | None, shown: _Shown) -> TaskRecord:
    """Do the turn and return the task after it. Where that is cut short, say how the task stands."""
    try:
        async with Executor(manager, listener=shown) as executor:
            return await _sent(executor, manager, task_id, prompt, shown)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSING_WORDS_SECONDS):
            task = await Tasks(manager).get(task_id)
            note(f"task {task_id} is {task.state}; `cnap-runner task send {task_id}` goes on with it")
        raise


async def _sent(
    executor: Executor, manager: RunnerManager, task_id: str, prompt: str | None, shown: _Shown
) -> TaskRecord:
    with lone_errors():
        async with anyio.create_task_group() as tasks:
            await executor.send(task_id, prompt)
            tasks.start_soon(shown.tell_place, manager)
            task = await executor.wait(task_id)
            tasks.cancel_scope.cancel()
    return task
