"""The end of a run, stored and told: of a turn that was driven to its end, of one that was broken off, of a prompt that never left."""

from __future__ import annotations

from dataclasses import replace

import anyio

from cnap_runner.errors import RunAborted, RunnerError, RunTimedOut, StoreBusy, StoreError
from cnap_runner.model.events import RunEnded
from cnap_runner.model.run import Outcome, RunError, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.opencode.turn import Turn, TurnEnd
from cnap_runner.runner.boot import LastTurn
from cnap_runner.runner.chronicle import note_limit
from cnap_runner.runner.install import Install
from cnap_runner.runner.lifecycle.limits import idle_from
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.runner.turns.ending import WIND_UP, result_of, wind_up
from cnap_runner.runner.turns.sendable import Sendable
from cnap_runner.runner.turns.telling import Telling
from cnap_runner.telemetry.logging import get_logger

_SETTLED_LATER = (
    "It is not lost: the next run of the agent reads it from the session; `cnap-runner runs` shows it then."
)

_log = get_logger(__name__)


class Conclusion:
    """Ends one run's entry."""

    def __init__(self, install: Install, active: ActiveRun, telling: Telling) -> None:
        self._install = install
        self._active = active
        self._telling = telling

    async def end_unsent(self, error: BaseException) -> None:
        """End the entry of a prompt that certainly was not sent. Of its runner only what this run wrote itself is undone."""
        self._active.never_left = True
        try:
            await self._store_end(self._unsent(error), runner=None)
        except StoreError as trouble:
            # The agent may have been deleted with its ledger; what led here is what the caller must hear.
            _log.warning("run_not_ended", run_id=self._active.run.run_id, error=str(trouble))

    async def end_broken(self, error: BaseException, turn: Turn, sendable: Sendable) -> None:
        """End the entry of a run that raises, because its caller was cancelled, when its prompt may have left."""
        is_cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        reason = "its caller was cancelled" if is_cancelled else f"of {error!r}"
        self._active.interrupt(Interruption.ABORTED, reason)
        await self._finish(await self._wind_up(turn, sendable), sendable)

    async def conclude(self, end: TurnEnd | None, turn: Turn, sendable: Sendable) -> RunResult:
        """Store how the turn ended, None for one that was interrupted, then tell it."""
        result = await self._store_result(end, turn, sendable)
        await self._telling.tell_state(RunState.ENDED)
        await self._telling.tell(RunEnded(result))
        return result

    def _unsent(self, error: BaseException) -> TurnEnd:
        outcome, code = Outcome.FAILED, "not_sent"
        message, is_retryable = "The run was given up before its prompt was sent.", True
        if isinstance(error, RunnerError):
            message = self._install.redactor.redact(error.message)
        if isinstance(error, RunAborted):
            outcome, code, is_retryable = Outcome.ABORTED, "aborted", False
        elif not isinstance(error, Exception):
            outcome = Outcome.ABORTED
        elif isinstance(error, RunTimedOut):
            outcome = Outcome.TIMED_OUT
        return TurnEnd(outcome=outcome, error=RunError(code=code, message=message, retryable=is_retryable))

    async def _store_result(self, end: TurnEnd | None, turn: Turn, sendable: Sendable) -> RunResult:
        with anyio.move_on_after((WIND_UP * 2).total_seconds(), shield=True):
            return await self._finish(end or await self._wind_up(turn, sendable), sendable)
        run_id = self._active.run.run_id
        raise StoreBusy(f"The result of run {run_id} could not be stored in time.", hint=_SETTLED_LATER)

    async def _wind_up(self, turn: Turn, sendable: Sendable) -> TurnEnd:
        return await wind_up(self._active, turn, sendable.live.client, heard=self._telling.heard)

    async def _finish(self, end: TurnEnd, sendable: Sendable) -> RunResult:
        at = self._install.now()
        idle = idle_from(sendable.record.turn_began(at=at).turn_ended(at=at), sendable.limits, at)
        result = await self._store_end(replace(end, usage=sendable.used + end.usage), runner=idle)
        if end.outcome is Outcome.TIMED_OUT:
            await note_limit(self._install, result)
        run = self._active.run
        if run.ended_at is not None:
            sendable.live.last_turn = LastTurn(run.task_id, sendable.session_id, run.ended_at, end.last_message_id)
        if self._active.interruption is not Interruption.DIED:
            self._install.known.see(idle)
        return result

    async def _store_end(self, end: TurnEnd, *, runner: RunnerRecord | None) -> RunResult:
        result = result_of(self._active.run, end, self._install)
        self._active.run = await self._install.store.finish_run(
            self._active.run, result, runner=runner, at=self._install.now()
        )
        _log.info("run_ended", run_id=result.run_id, agent_id=result.agent_id, outcome=str(result.outcome))
        return result
