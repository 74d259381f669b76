"""One run, from its ledger entry to its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import anyio
from anyio.lowlevel import checkpoint

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import (
    InstanceExited,
    QuotaExceeded,
    RunAborted,
    RunnerError,
    RunTimedOut,
    ServerError,
    ServerUnreachable,
    SessionNotFound,
    StoreBusy,
    StoreError,
)
from cnap_runner.model.agent import Answers
from cnap_runner.model.counts import QUEUE_WAIT
from cnap_runner.model.decisions.life import LifeLimits
from cnap_runner.model.events import (
    RunEnded,
    RunEvent,
    StatusChanged,
    TextDelta,
    ToolFailed,
    ToolFinished,
    ToolStarted,
)
from cnap_runner.model.run import Outcome, RunError, RunRequest, RunResult, RunState, Usage
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.opencode.turn import Turn, TurnEnd, prepare
from cnap_runner.opencode.wire import FilePart, Prompt
from cnap_runner.runner.answers.answering import Answering
from cnap_runner.runner.boot import LastTurn, LiveInstance
from cnap_runner.runner.chronicle import note_limit
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.lifecycle.limits import idle_from, limits_of
from cnap_runner.runner.secrecy.events import RedactedEvents
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.runner.turns.callbacks import Audience
from cnap_runner.runner.turns.ending import WIND_UP, failed_by, interrupted_by, result_of, turn_timing, wind_up
from cnap_runner.runner.turns.head_start import Claimed
from cnap_runner.runner.turns.prompt import make_prompt
from cnap_runner.runner.turns.queue import TurnQueue, aborted_by
from cnap_runner.runner.turns.resuming import GoingOn, Resumption
from cnap_runner.runner.workspaces.quota import Quota
from cnap_runner.store.base import Wish
from cnap_runner.telemetry.logging import bind, get_logger

_log = get_logger(__name__)

_SETTLED_LATER = (
    "It is not lost: the next run of the agent reads it from the session; `cnap-runner runs` shows it then."
)


@dataclass(slots=True)
class _Sendable:
    """All that is needed to send one prompt."""

    live: LiveInstance
    record: RunnerRecord
    session_id: str
    after_message_id: str | None
    prompt: Prompt
    max_run_time: timedelta
    limits: LifeLimits
    answers: Answers
    used: Usage = field(default_factory=Usage)
    """By the run before this prompt."""
    is_resumption: bool = False
    """Whether it tells the agent to go on with a turn that was interrupted."""

    def after(self, going_on: GoingOn) -> _Sendable:
        """Give what is sent next, after an interruption."""
        return replace(
            self,
            live=going_on.live,
            record=going_on.record,
            after_message_id=going_on.after_message_id,
            prompt=going_on.prompt,
            used=going_on.used,
            is_resumption=True,
        )


class Execution:
    """Drives one run. Used once."""

    def __init__(
        self,
        install: Install,
        instances: Instances,
        queue: TurnQueue,
        quota: Quota,
        *,
        active: ActiveRun,
        audience: Audience,
    ) -> None:
        self._install = install
        self._instances = instances
        self._queue = queue
        self._quota = quota
        self._active = active
        self._resumption = Resumption(install, instances)
        self._events = RedactedEvents(install.redactor, audience.tell)
        self._heard: list[str] = []
        self._heard_of: str | None = None
        self._was_ready: RunnerRecord | None = None
        """The runner as it was when the entry was written, and with it that the prompt is about to leave."""
        self._may_have_left = False
        """Whether the prompt may be on its way."""

    async def run(
        self,
        request: RunRequest,
        files: tuple[FilePart, ...],
        *,
        claimed: Claimed | None,
        deadline: float | None,
    ) -> RunResult:
        """Wait, make ready, send, follow, store. Raises what goes wrong before the prompt is sent.

        ``claimed`` is what is known of a run whose turn was claimed with its entry. ``deadline`` is one of the event loop's clock.
        Whatever happens, the entry is ended when this returns or raises.
        """
        sendable: _Sendable | None = None
        try:
            await self._tell_state(RunState.QUEUED)
            with self._active.interruptible(deadline), self._install.tracer.span("prepare"):
                sendable = await self._make_ready(request, files, claimed)
            sendable = self._still_wanted(sendable)
        except BaseException as error:
            async with shielded(WIND_UP):
                await self._end_unsent(error, runner=sendable.record if sendable else None)
            raise
        with self._install.tracer.span("turn"):
            return await self._send(sendable, deadline=deadline)

    # --- before the prompt is sent --------------------------------------------------------------------------------------

    async def _make_ready(self, request: RunRequest, files: tuple[FilePart, ...], claimed: Claimed | None) -> _Sendable:
        active = self._active
        if active.run.state is RunState.QUEUED:
            await self._queue.wait_turn(active)
            active.run = replace(active.run, state=RunState.STARTING)
        self._install.metrics.observe(QUEUE_WAIT, self._install.now() - active.run.created_at)
        await self._tell_state(RunState.STARTING)
        try:
            return await self._find_session(request, files, claimed)
        except ServerUnreachable:
            # It may have died a moment ago, and the watch has not told yet: look at it anew, once. The run stands on it no longer: where
            # it only cannot be reached, it is about to be ended for that.
            active.instance_id = None
            await self._instances.distrust(active.run.agent_id)
            return await self._find_session(request, files)

    async def _find_session(
        self, request: RunRequest, files: tuple[FilePart, ...], claimed: Claimed | None = None
    ) -> _Sendable:
        run = self._active.run
        if claimed is None:
            claimed = Claimed(await self._install.store.turn_context(run.agent_id, run.task_id))
        elif run.state is RunState.SENDING:
            self._was_ready = claimed.context.agent.runner
        row, session_id = claimed.context.agent, claimed.context.session_id
        self._instances.planner.check_model(row.spec, request.model)
        await self._quota.check(row.spec)
        live, record = await self._instances.ensure(row)
        self._active.instance_id = live.ref.instance_id
        bind(instance_id=live.ref.instance_id)
        max_run_time = row.spec.life.max_run_time or self._install.settings.max_run_time
        rest = await claimed.rest_of(live)
        if session_id is None or rest is None:
            session_id, after = await self._session(live, session_id, at_most=max_run_time)
        else:
            after = rest.last_message_id
        prompt = make_prompt(row.spec, request, files)
        limits = limits_of(self._install, row.spec)
        return _Sendable(live, record, session_id, after, prompt, max_run_time, limits, row.spec.answers)

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
        """Write that the prompt is about to leave, unless just that was written with the entry. From here on it is never sent again."""
        running = sendable.record.turn_began(at=self._install.now())
        if sendable.is_resumption:
            await self._begin_resuming(sendable, running)
        elif not self._is_written(sendable):
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
        await self._tell_state(RunState.SENDING)
        self._may_have_left = True

    async def _begin_resuming(self, sendable: _Sendable, running: RunnerRecord) -> None:
        answer = await self._install.store.mark_resuming(
            self._active.run,
            instance_id=sendable.live.ref.instance_id,
            resumed_after=sendable.after_message_id,
            runner=running,
        )
        if isinstance(answer, Wish):
            self._active.interrupt(Interruption.ABORTED, f"somebody asked to {answer.kind} the agent")
            await checkpoint()  # is left here
        else:
            self._active.run = answer

    def _is_written(self, sendable: _Sendable) -> bool:
        run = self._active.run
        return (
            run.state is RunState.SENDING
            and sendable.record == self._was_ready
            and run.session_id == sendable.session_id
            and run.instance_id == sendable.live.ref.instance_id
            and run.after_message_id == sendable.after_message_id
        )

    def _still_wanted(self, sendable: _Sendable | None) -> _Sendable:
        """Raise the error of a run that was interrupted before its prompt left."""
        reason = self._active.reason
        match self._active.interruption:
            case Interruption.TIMED_OUT:
                raise RunTimedOut("The run's time was over before its prompt was sent.")
            case Interruption.DIED:
                raise InstanceExited(f"The instance ended before the prompt was sent: {reason}.")
            case Interruption.QUOTA:
                raise QuotaExceeded(f"The run was ended before its prompt was sent: {reason}.")
            case Interruption.ABORTED:
                raise RunAborted(f"The run was ended before its prompt was sent: {reason}.")
        if sendable is None:
            raise RunAborted("The run was ended before its prompt was sent.")
        return sendable

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
            await self._store_end(end, runner=runner or self._was_ready)
        except StoreError as trouble:
            # The agent may have been deleted with its ledger; what led here is what the caller must hear.
            _log.warning("run_not_ended", run_id=self._active.run.run_id, error=str(trouble))

    # --- from the sending on --------------------------------------------------------------------------------------------

    async def _send(self, sendable: _Sendable, *, deadline: float | None) -> RunResult:
        """Send the prompt and see the turn through; one that is interrupted goes on with another prompt, where that is wanted."""
        latest = anyio.current_time() + sendable.max_run_time.total_seconds()
        latest = latest if deadline is None else min(deadline, latest)
        while True:
            turn, answering = self._turn_of(sendable)
            try:
                end = await self._take_turn(turn, answering, sendable, deadline=latest)
                going_on = await self._go_on(end, sendable, deadline=latest)
            except BaseException as error:
                async with shielded(WIND_UP * 2):
                    await self._end_broken(error, turn, sendable)
                raise
            if going_on is None:
                return await self._conclude(end, turn, sendable)
            sendable = sendable.after(going_on)
            if going_on.end is not None:
                return await self._conclude(going_on.end, turn, sendable)

    def _turn_of(self, sendable: _Sendable) -> tuple[Turn, Answering]:
        live = sendable.live
        answering = Answering(self._install, run=self._active.run, answers=sendable.answers, live=live, emit=self._hear)
        turn = Turn(
            live.client,
            live.events,
            session_id=sendable.session_id,
            after_message_id=sendable.after_message_id,
            emit=answering.hear,
            timing=turn_timing(self._install),
        )
        return turn, answering

    async def _go_on(self, end: TurnEnd | None, sendable: _Sendable, *, deadline: float) -> GoingOn | None:
        """Prepare to go on with an interrupted turn; None where it was not interrupted, is not to go on, or cannot."""
        active = self._active
        died = RunError("instance_died", active.reason) if active.interruption is Interruption.DIED else None
        error = died if end is None else end.error
        if error is None or not self._resumption.is_wanted(active.run, error):
            return None
        active.instance_id, active.interruption = None, None
        with active.interruptible(deadline):
            try:
                going_on = await self._resumption.prepare(active.run, reason=error.message, prompt=sendable.prompt)
            except RunnerError as trouble:
                active.interrupt(Interruption.DIED, f"{error.message}; it could not go on: {trouble.message}")
                return None
            active.instance_id = going_on.live.ref.instance_id
            active.open_tools.clear()
            active.is_out_of_memory = False
            return going_on
        return None

    async def _take_turn(
        self, turn: Turn, answering: Answering, sendable: _Sendable, *, deadline: float
    ) -> TurnEnd | None:
        """Send the prompt and follow its turn; None where it was interrupted. Raises where the prompt was certainly not taken."""
        try:
            with self._active.interruptible(deadline):
                async with answering.open():
                    return await turn.send_and_follow(
                        sendable.prompt, before_send=partial(self._begin_sending, sendable), on_taken=self._taken
                    )
        except ServerError as error:
            if sendable.is_resumption:
                return interrupted_by(error)
            if self._active.run.state is not RunState.RUNNING:
                raise
            return failed_by(error)
        if not self._may_have_left:
            self._still_wanted(sendable)
        return None

    async def _conclude(self, end: TurnEnd | None, turn: Turn, sendable: _Sendable) -> RunResult:
        """Store how the turn ended, then tell it."""
        result = await self._store_result(end, turn, sendable)
        await self._events.tell(StatusChanged(RunState.ENDED))
        await self._events.tell(RunEnded(result))
        return result

    async def _store_result(self, end: TurnEnd | None, turn: Turn, sendable: _Sendable) -> RunResult:
        with anyio.move_on_after((WIND_UP * 2).total_seconds(), shield=True):
            if end is None:
                end = await wind_up(self._active, turn, sendable.live.client, heard=self._heard)
            return await self._finish(end, sendable)
        run_id = self._active.run.run_id
        raise StoreBusy(f"The result of run {run_id} could not be stored in time.", hint=_SETTLED_LATER)

    async def _end_broken(self, error: BaseException, turn: Turn, sendable: _Sendable) -> None:
        """End the entry of a run that raises: its caller was cancelled, or its prompt was certainly not taken."""
        if not self._may_have_left or (isinstance(error, ServerError) and not sendable.is_resumption):
            await self._end_unsent(error, runner=sendable.record)
            return
        is_cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        reason = "its caller was cancelled" if is_cancelled else f"of {error!r}"
        self._active.interrupt(Interruption.ABORTED, reason)
        end = await wind_up(self._active, turn, sendable.live.client, heard=self._heard)
        await self._finish(end, sendable)

    async def _taken(self) -> None:
        """The server took the prompt: write it, and see whether somebody wished the run to end meanwhile."""
        self._active.run, wishes = await self._install.store.mark_running(self._active.run)
        if wishes:
            self._active.interrupt(Interruption.ABORTED, f"somebody asked to {wishes[0].kind} the agent")
        await self._tell_state(RunState.RUNNING)

    async def _finish(self, end: TurnEnd, sendable: _Sendable) -> RunResult:
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

    # --- telling --------------------------------------------------------------------------------------------------------

    async def _tell_state(self, state: RunState) -> None:
        await self._events.tell(StatusChanged(state))

    async def _hear(self, event: RunEvent) -> None:
        """Keep the text of the message under way, for a turn that is cut off, and hand the event on."""
        if isinstance(event, TextDelta):
            if event.message_id != self._heard_of:
                self._heard, self._heard_of = [], event.message_id
            self._heard.append(event.text)
        elif isinstance(event, ToolStarted):
            self._active.open_tools[event.call_id] = event.tool
        elif isinstance(event, ToolFinished | ToolFailed):
            self._active.open_tools.pop(event.call_id, None)
        await self._events.tell(event)
