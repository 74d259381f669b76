"""Before a prompt is sent: its turn awaited, a ready instance made sure of, and an idle session found."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from cnap_runner.errors import (
    InstanceExited,
    QuotaExceeded,
    RunAborted,
    RunTimedOut,
    ServerRefusedPassword,
    ServerUnreachable,
    SessionNotFound,
)
from cnap_runner.model.counts import QUEUE_WAIT
from cnap_runner.model.run import RunRequest, RunState
from cnap_runner.opencode.sessions import prepare
from cnap_runner.opencode.wire import FilePart
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.lifecycle.limits import limits_of
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.runner.turns.head_start import Claimed
from cnap_runner.runner.turns.prompt import make_prompt
from cnap_runner.runner.turns.queue import TurnQueue
from cnap_runner.runner.turns.sendable import Sendable
from cnap_runner.runner.turns.telling import Telling
from cnap_runner.runner.workspaces.quota import Quota
from cnap_runner.telemetry.logging import bind, get_logger

_log = get_logger(__name__)


class Preparation:
    """Makes one run ready to be sent."""

    def __init__(
        self,
        install: Install,
        instances: Instances,
        queue: TurnQueue,
        quota: Quota,
        *,
        active: ActiveRun,
        telling: Telling,
    ) -> None:
        self._install = install
        self._instances = instances
        self._queue = queue
        self._quota = quota
        self._active = active
        self._telling = telling

    async def make_ready(self, request: RunRequest, files: tuple[FilePart, ...], claimed: Claimed | None) -> Sendable:
        """Wait for the run's turn, and find out all that is needed to send its prompt. Raises what goes wrong."""
        active = self._active
        if active.run.state is RunState.QUEUED:
            await self._queue.wait_turn(active)
            active.run = replace(active.run, state=RunState.STARTING)
        self._install.metrics.observe(QUEUE_WAIT, self._install.now() - active.run.created_at)
        await self._telling.tell_state(RunState.STARTING)
        try:
            return await self._find_session(request, files, claimed)
        except (ServerUnreachable, ServerRefusedPassword):
            # It may have died a moment ago, and the watch has not told yet, or another one is where it was: look at it anew, once. The run stands on it no longer: where
            # it only cannot be reached, it is about to be ended for that.
            active.instance_id = None
            await self._instances.distrust(active.run.agent_id)
            return await self._find_session(request, files)

    async def _find_session(
        self, request: RunRequest, files: tuple[FilePart, ...], claimed: Claimed | None = None
    ) -> Sendable:
        run = self._active.run
        if claimed is None:
            claimed = Claimed(await self._install.store.turn_context(run.agent_id, run.task_id))
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
        return Sendable(live, record, session_id, after, prompt, max_run_time, limits, row.spec)

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


def still_wanted(active: ActiveRun, sendable: Sendable | None) -> Sendable:
    """Raise the error of a run that was interrupted before its prompt left."""
    reason = active.reason
    match active.interruption:
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
