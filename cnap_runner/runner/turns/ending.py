"""How a run's end is made: an interrupted turn wound up, and a turn's end made into a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import anyio

from cnap_runner.errors import RunnerError, ServerError
from cnap_runner.model.run import Outcome, RunError, RunRecord, RunResult
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.turn import Turn, TurnEnd, TurnTiming
from cnap_runner.runner.install import Install
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.telemetry.logging import get_logger

WIND_UP = timedelta(seconds=2)
"""How long an aborted turn may take to end before its result is written without it. OpenCode aborts within 20 ms."""

_log = get_logger(__name__)

_OUTCOMES = {
    Interruption.ABORTED: (Outcome.ABORTED, "aborted"),
    Interruption.TIMED_OUT: (Outcome.TIMED_OUT, "timed_out"),
    Interruption.DIED: (Outcome.FAILED, "instance_died"),
    Interruption.QUOTA: (Outcome.FAILED, "quota_exceeded"),
}

_MAY_PASS = frozenset({Interruption.DIED, Interruption.TIMED_OUT})
"""What may not happen again when the same call is made again."""


async def wind_up(active: ActiveRun, turn: Turn, client: OpenCodeClient, *, heard: Sequence[str] = ()) -> TurnEnd:
    """End an interrupted turn on the server, and tell how it ended and what is known of its answer.

    One that turns out to have succeeded meanwhile has succeeded. Takes at most `WIND_UP`.
    """
    outcome, code = _OUTCOMES[active.interruption or Interruption.ABORTED]
    end = TurnEnd(outcome=outcome, output="".join(heard))
    message = f"The turn was ended: {active.reason}."
    tool: str | None = None
    if active.interruption is Interruption.DIED:
        tool = next(reversed(active.open_tools.values()), None)
        where = "in the middle of the turn" if tool is None else f"while the tool {tool} ran"
        message = f"The agent's instance ended {where}: {active.reason}."
        code = "out_of_memory" if active.is_out_of_memory else code
    else:
        with anyio.move_on_after(WIND_UP.total_seconds()):
            try:
                await client.abort(turn.session_id)
                end = await turn.follow()
            except RunnerError as trouble:
                _log.warning("abort_failed", run_id=active.run.run_id, error=str(trouble))
        if end.outcome is Outcome.SUCCEEDED:
            return end
    error = RunError(
        code=code, message=message, retryable=code != "out_of_memory" and active.interruption in _MAY_PASS, tool=tool
    )
    return replace(end, outcome=outcome, error=error)


def result_of(run: RunRecord, end: TurnEnd, install: Install) -> RunResult:
    """Make the result of a run from how its turn ended. Secrets that came along are redacted."""
    redact = install.redactor.redact
    error = None if end.error is None else replace(end.error, message=redact(end.error.message))
    return RunResult(
        run_id=run.run_id,
        agent_id=run.agent_id,
        task_id=run.task_id,
        outcome=end.outcome,
        started_at=run.created_at,
        duration=max(install.now() - run.created_at, timedelta(0)),
        session_id=run.session_id,
        output=redact(end.output),
        error=error,
        usage=end.usage,
        model=end.model or run.model,
    )


def failed_by(error: ServerError) -> TurnEnd:
    """A turn that a failure of the server, not of the model, ended."""
    return TurnEnd(
        outcome=Outcome.FAILED, error=RunError(code=error.code, message=error.message, retryable=error.retryable)
    )


def interrupted_by(error: ServerError) -> TurnEnd:
    """A turn that was to go on, and whose server could not be told so."""
    return TurnEnd(outcome=Outcome.FAILED, error=RunError(code="interrupted", message=error.message, retryable=True))


def turn_timing(install: Install) -> TurnTiming:
    """Tell a turn how patient to be."""
    settings = install.settings
    return TurnTiming(stall_timeout=settings.stall_timeout, not_started_after=settings.not_started_after)
