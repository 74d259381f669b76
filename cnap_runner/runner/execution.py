"""One run, from its ledger entry to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import anyio

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import (
    InstanceExited,
    RunAborted,
    RunnerError,
    RunTimedOut,
    ServerError,
    ServerUnreachable,
    SessionNotFound,
    StoreError,
)
from cnap_runner.model.events import MessageCompleted, RunEnded, RunEvent, StatusChanged, TextDelta
from cnap_runner.model.run import Outcome, RunError, RunRecord, RunRequest, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.turn import Turn, TurnEnd, TurnTiming, prepare
from cnap_runner.opencode.wire import FilePart, Prompt
from cnap_runner.runner.active import ActiveRun, Interruption
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.callbacks import Audience
from cnap_runner.runner.event_redaction import RedactedEvents
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances import Instances
from cnap_runner.runner.prompt import make_prompt
from cnap_runner.runner.queue import TurnQueue, aborted_by
from cnap_runner.store.base import Wish
from cnap_runner.telemetry.logging import get_logger

WIND_UP = timedelta(seconds=5)
"""How long an aborted turn may take to end before its result is written without it. OpenCode aborts within 20 ms."""

_log = get_logger(__name__)

_OUTCOMES = {
    Interruption.ABORTED: (Outcome.ABORTED, "aborted"),
    Interruption.TIMED_OUT: (Outcome.TIMED_OUT, "timed_out"),
    Interruption.DIED: (Outcome.FAILED, "instance_died"),
}


@dataclass(slots=True)
class _Sendable:
    """All that is needed to send one prompt."""

    live: LiveInstance
    record: RunnerRecord
    session_id: str
    after_message_id: str | None
    prompt: Prompt
    max_run_time: timedelta


class Execution:
    """Drives one run. Used once."""

    def __init__(
        self, install: Install, instances: Instances, queue: TurnQueue, *, active: ActiveRun, audience: Audience
    ) -> None:
        self._install = install
        self._instances = instances
        self._queue = queue
        self._active = active
        self._audience = audience
        self._heard: list[str] = []

    async def run(self, request: RunRequest, files: tuple[FilePart, ...], *, deadline: float | None) -> RunResult:
        """Wait, make ready, send, follow, store. Raises what goes wrong before the prompt is sent.

        ``deadline`` is one of the event loop's clock. Whatever happens, the entry is ended when this returns or raises.
        """
        active = self._active
        try:
            await self._tell_state(RunState.QUEUED)
            with active.interruptible(deadline):
                sendable = await self._make_ready(request, files)
            self._refuse_interrupted()
            await self._begin_sending(sendable)
        except BaseException as error:
            async with shielded(WIND_UP):
                await self._end_unsent(error)
            raise
        return await self._send(sendable, deadline=deadline)

    # --- before the prompt is sent --------------------------------------------------------------------------------------

    async def _make_ready(self, request: RunRequest, files: tuple[FilePart, ...]) -> _Sendable:
        active = self._active
        if active.run.state is RunState.QUEUED:
            await self._queue.wait_turn(active)
            active.run = replace(active.run, state=RunState.STARTING)
        await self._tell_state(RunState.STARTING)
        try:
            return await self._find_session(request, files)
        except ServerUnreachable:
            # It may have died a moment ago, and the watch has not told yet: look at it anew, once.
            await self._instances.distrust(active.run.agent_id)
            return await self._find_session(request, files)

    async def _find_session(self, request: RunRequest, files: tuple[FilePart, ...]) -> _Sendable:
        run = self._active.run
        row, session_id = await self._install.store.turn_context(run.agent_id, run.task_id)
        live, record = await self._instances.ensure(row)
        self._active.instance_id = live.ref.instance_id
        max_run_time = row.spec.life.max_run_time or self._install.settings.max_run_time
        session_id, after = await self._session(live, session_id, at_most=max_run_time)
        prompt = make_prompt(row.spec, request, files)
        return _Sendable(live, record, session_id, after, prompt, max_run_time)

    async def _session(
        self, live: LiveInstance, session_id: str | None, *, at_most: timedelta
    ) -> tuple[str, str | None]:
        """Give the task's session, idle, and the id of its last message; make one where there is none any more."""
        run = self._active.run
        if session_id is not None:
            try:
                return session_id, await prepare(live.client, session_id, timeout=at_most)
            except SessionNotFound:
                _log.warning("session_lost", agent_id=run.agent_id, task_id=run.task_id, session_id=session_id)
        session_id = await live.client.create_session(title=f"{run.agent_id}/{run.task_id}")
        await self._install.store.set_session(run.agent_id, run.task_id, session_id)
        return session_id, None

    async def _begin_sending(self, sendable: _Sendable) -> None:
        """Write that the prompt is about to leave. From here on it is never sent again."""
        running = sendable.record.turn_began(at=self._install.now())
        answer = await self._install.store.mark_sending(
            self._active.run,
            session_id=sendable.session_id,
            instance_id=sendable.live.ref.instance_id,
            after_message_id=sendable.after_message_id,
            runner=running,
            at=self._install.now(),
        )
        if isinstance(answer, Wish):
            raise aborted_by(answer)
        self._active.run = answer
        self._install.known.see(running)

    def _refuse_interrupted(self) -> None:
        active = self._active
        if active.interruption is Interruption.TIMED_OUT:
            raise RunTimedOut("The run's time was over before its prompt was sent.")
        if active.interruption is Interruption.DIED:
            raise InstanceExited(f"The instance ended before the prompt was sent: {active.reason}.")
        if active.interruption is not None:
            raise RunAborted(f"The run was ended before its prompt was sent: {active.reason}.")

    async def _end_unsent(self, error: BaseException, *, runner: RunnerRecord | None = None) -> None:
        """End the entry of a prompt that certainly was not sent."""
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
        end = TurnEnd(outcome=outcome, error=RunError(code=code, message=message, retryable=is_retryable))
        try:
            await self._store_end(end, runner=runner)
        except StoreError as trouble:
            # The agent may have been deleted with its ledger; what led here is what the caller must hear.
            _log.warning("run_not_ended", run_id=self._active.run.run_id, error=str(trouble))

    # --- from the sending on --------------------------------------------------------------------------------------------

    async def _send(self, sendable: _Sendable, *, deadline: float | None) -> RunResult:
        live, active = sendable.live, self._active
        latest = anyio.current_time() + sendable.max_run_time.total_seconds()
        turn = Turn(
            live.client,
            session_id=sendable.session_id,
            after_message_id=sendable.after_message_id,
            emit=RedactedEvents(self._install.redactor, self._hear).tell,
            timing=turn_timing(self._install),
        )
        end: TurnEnd | None = None
        try:
            await self._tell_state(RunState.SENDING)
            with active.interruptible(latest if deadline is None else min(deadline, latest)):
                end = await turn.send_and_follow(sendable.prompt, on_taken=self._taken)
        except ServerError as error:
            if active.run.state is RunState.SENDING:
                # Nobody said that the server has it: it certainly does not (see Turn.send_and_follow).
                await self._end_unsent(error, runner=sendable.record)
                raise
            end = failed_by(error)
        except BaseException as error:
            is_cancelled = isinstance(error, anyio.get_cancelled_exc_class())
            active.interrupt(Interruption.ABORTED, "its caller was cancelled" if is_cancelled else f"of {error!r}")
            async with shielded(WIND_UP * 2):
                await self._finish(await wind_up(active, turn, live.client, heard=self._heard), sendable.record)
            raise
        async with shielded(WIND_UP * 2):
            if end is None:
                end = await wind_up(active, turn, live.client, heard=self._heard)
            result = await self._finish(end, sendable.record)
        await self._audience.tell(StatusChanged(RunState.ENDED))
        await self._audience.tell(RunEnded(result))
        return result

    async def _taken(self) -> None:
        """The server took the prompt: write it, and see whether somebody wished the run to end meanwhile."""
        self._active.run, wishes = await self._install.store.mark_running(self._active.run)
        if wishes:
            self._active.interrupt(Interruption.ABORTED, f"somebody asked to {wishes[0].kind} the agent")
        await self._tell_state(RunState.RUNNING)

    async def _finish(self, end: TurnEnd, record: RunnerRecord) -> RunResult:
        at = self._install.now()
        idle = record.turn_began(at=at).turn_ended(at=at)
        result = await self._store_end(end, runner=idle)
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

    # --- telling --------------------------------------------------------------------------------------------------------

    async def _tell_state(self, state: RunState) -> None:
        await self._audience.tell(StatusChanged(state))

    async def _hear(self, event: RunEvent) -> None:
        """Keep the text of the message under way, for a turn that is cut off, and hand the event on."""
        if isinstance(event, TextDelta):
            self._heard.append(event.text)
        elif isinstance(event, MessageCompleted):
            self._heard = [event.text]
        await self._audience.tell(event)


async def wind_up(active: ActiveRun, turn: Turn, client: OpenCodeClient, *, heard: Sequence[str] = ()) -> TurnEnd:
    """End an interrupted turn on the server, and tell how it ended and what is known of its answer.

    One that turns out to have succeeded meanwhile has succeeded. Takes at most `WIND_UP`.
    """
    outcome, code = _OUTCOMES[active.interruption or Interruption.ABORTED]
    end = TurnEnd(outcome=outcome, output="".join(heard))
    message = f"The turn was ended: {active.reason}."
    if active.interruption is Interruption.DIED:
        message = f"The agent's instance ended in the middle of the turn: {active.reason}."
    else:
        with anyio.move_on_after(WIND_UP.total_seconds()):
            try:
                await client.abort(turn.session_id)
                end = await turn.follow()
            except RunnerError as trouble:
                _log.warning("abort_failed", run_id=active.run.run_id, error=str(trouble))
        if end.outcome is Outcome.SUCCEEDED:
            return end
    error = RunError(code=code, message=message, retryable=active.interruption is not Interruption.ABORTED)
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


def turn_timing(install: Install) -> TurnTiming:
    """Tell a turn how patient to be."""
    settings = install.settings
    return TurnTiming(stall_timeout=settings.stall_timeout, not_started_after=settings.not_started_after)
