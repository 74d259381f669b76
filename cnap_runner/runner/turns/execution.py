"""One run, from its ledger entry to its end: made ready, sent, followed, concluded."""

from __future__ import annotations

import asyncio
from functools import partial

import anyio

from cnap_runner.aio.shield import raise_late, shielded
from cnap_runner.errors import RunnerError, ServerError
from cnap_runner.model.run import RunError, RunRequest, RunResult, RunState
from cnap_runner.opencode.turn import Turn, TurnEnd
from cnap_runner.opencode.wire import FilePart
from cnap_runner.runner.answers.answering import Answering
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.secrecy.events import RedactedEvents
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.runner.turns.callbacks import Audience
from cnap_runner.runner.turns.concluding import Conclusion
from cnap_runner.runner.turns.ending import WIND_UP, failed_by, interrupted_by, turn_timing
from cnap_runner.runner.turns.head_start import Claimed
from cnap_runner.runner.turns.preparing import Preparation, still_wanted
from cnap_runner.runner.turns.queue import TurnQueue
from cnap_runner.runner.turns.resuming import GoingOn, Resumption
from cnap_runner.runner.turns.sendable import Sendable
from cnap_runner.runner.turns.sending import Sending
from cnap_runner.runner.turns.telling import Telling
from cnap_runner.runner.workspaces.quota import Quota


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
        telling = Telling(active, RedactedEvents(install.redactor, audience.tell))
        self._install = install
        self._active = active
        self._telling = telling
        self._planner = instances.planner
        self._preparation = Preparation(install, instances, queue, quota, active=active, telling=telling)
        self._sending = Sending(install, active, telling)
        self._resumption = Resumption(install, instances)
        self._conclusion = Conclusion(install, active, telling)

    async def run(
        self,
        request: RunRequest,
        files: tuple[FilePart, ...],
        *,
        claimed: Claimed | None,
        deadline: float | None,
        cancelled: asyncio.CancelledError | None = None,
    ) -> RunResult:
        """Wait, make ready, send, follow, store. Raises what goes wrong before the prompt is sent.

        ``claimed`` is what is known of a run whose turn was claimed with its entry. ``deadline`` is one of the event loop's clock.
        ``cancelled`` came while the entry was written, and is raised here. Whatever happens, the entry is ended when this returns or raises.
        """
        if claimed is not None and self._active.run.state is RunState.SENDING:
            self._active.was_ready = claimed.context.agent.runner
        sendable: Sendable | None = None
        try:
            raise_late(cancelled)
            await self._telling.tell_state(RunState.QUEUED)
            with self._active.interruptible(deadline), self._install.tracer.span("prepare"):
                sendable = await self._preparation.make_ready(request, files, claimed)
            sendable = still_wanted(self._active, sendable)
        except BaseException as error:
            async with shielded(WIND_UP):
                await self._conclusion.end_unsent(error)
            raise
        with self._install.tracer.span("turn"):
            return await self._send(sendable, deadline=deadline)

    async def _send(self, sendable: Sendable, *, deadline: float | None) -> RunResult:
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
                return await self._conclusion.conclude(end, turn, sendable)
            sendable = sendable.after(going_on)
            if going_on.end is not None:
                return await self._conclusion.conclude(going_on.end, turn, sendable)

    def _turn_of(self, sendable: Sendable) -> tuple[Turn, Answering]:
        live, tell = sendable.live, self._telling.hear
        answering = Answering(
            self._install, self._planner, run=self._active.run, spec=sendable.spec, live=live, emit=tell
        )
        turn = Turn(
            live.client,
            live.events,
            session_id=sendable.session_id,
            after_message_id=sendable.after_message_id,
            emit=answering.hear,
            timing=turn_timing(self._install),
        )
        return turn, answering

    async def _take_turn(
        self, turn: Turn, answering: Answering, sendable: Sendable, *, deadline: float
    ) -> TurnEnd | None:
        """Send the prompt and follow its turn; None where it was interrupted. Raises where the prompt was certainly not taken."""
        before_send = partial(self._sending.begin, sendable)
        try:
            with self._active.interruptible(deadline):
                async with answering.open():
                    return await turn.send_and_follow(
                        sendable.prompt, before_send=before_send, on_taken=self._sending.taken
                    )
        except ServerError as error:
            if sendable.is_resumption:
                return interrupted_by(error)
            if self._active.run.state is not RunState.RUNNING:
                raise
            return failed_by(error)
        if not self._sending.may_have_left:
            still_wanted(self._active, sendable)
        return None

    async def _go_on(self, end: TurnEnd | None, sendable: Sendable, *, deadline: float) -> GoingOn | None:
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

    async def _end_broken(self, error: BaseException, turn: Turn, sendable: Sendable) -> None:
        """End the entry of a run that raises: its caller was cancelled, or its prompt was certainly not taken."""
        is_not_taken = isinstance(error, ServerError) and not sendable.is_resumption
        if is_not_taken or not self._sending.may_have_left:
            await self._conclusion.end_unsent(error)
        else:
            await self._conclusion.end_broken(error, turn, sendable)
