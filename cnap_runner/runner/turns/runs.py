"""All runs of one manager: accepting them, attaching to known ones, ending them on request."""

from __future__ import annotations

import math

import anyio
from anyio.abc import TaskGroup

from cnap_runner.aio.begun import begun
from cnap_runner.aio.shield import raise_late, seen_through
from cnap_runner.errors import RunnerError, RunTimedOut
from cnap_runner.model.counts import ERRORS
from cnap_runner.model.events import RunEnded
from cnap_runner.model.ids import new_id
from cnap_runner.model.run import RunRecord, RunRequest, RunResult, RunState
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.secrecy.errors import redact_error
from cnap_runner.runner.turns.abandoned import AbandonedRuns
from cnap_runner.runner.turns.active import ActiveRuns, Interruption
from cnap_runner.runner.turns.callbacks import Audience
from cnap_runner.runner.turns.execution import Execution
from cnap_runner.runner.turns.head_start import Claimed, HeadStart, intent_of, take_head_start
from cnap_runner.runner.turns.prompt import load_files
from cnap_runner.runner.turns.queue import TurnQueue
from cnap_runner.runner.turns.settlement import Settlement
from cnap_runner.runner.workspaces.quota import Quota
from cnap_runner.store.base import Admission, Entry, NewRun, Wish, WishKind
from cnap_runner.telemetry.logging import about, get_logger

WISH_SECONDS = 1.0
"""How often the wishes of other processes are read for the runs under way."""

_log = get_logger(__name__)


def ids_of(run: RunRecord) -> dict[str, str]:
    """Give the ids that log lines about a run carry."""
    return {"agent_id": run.agent_id, "task_id": run.task_id, "run_id": run.run_id}


class Runs:
    """Accepts runs and drives each in its caller's coroutine."""

    def __init__(
        self, install: Install, instances: Instances, active: ActiveRuns, quota: Quota, *, tasks: TaskGroup
    ) -> None:
        self._install = install
        self._instances = instances
        self._quota = quota
        self.active = active
        self.used: set[str] = set()
        """Agents this manager uses."""
        self.abandoned = AbandonedRuns(install, active, Settlement(install, instances, active).settle, tasks)
        self.queue = TurnQueue(install, active, self.abandoned)

    async def run(self, agent_id: str, request: RunRequest, audience: Audience) -> RunResult:
        """Do one run, or attach to the one that its idempotency key names.

        Raises what goes wrong before the prompt is sent; later trouble is in the result. Cancelling it aborts the turn, but only
        detaches a caller that is attached.
        """
        deadline = None if request.timeout is None else anyio.current_time() + request.timeout.total_seconds()
        try:
            files = await load_files(request, agents_own=self._install.settings.data_dir / "workspace")
            while True:
                async with begun(self._take_head_start(agent_id, request.task_id)) as head_start:
                    async with self.active.entering.holding(agent_id):
                        # Whole or not at all: an entry that nobody has in hand would look as if its prompt had been sent.
                        entry, cancelled = await seen_through(self._enter(agent_id, request))
                        active = self.active.add(entry.run) if entry.admission is Admission.ENTERED else None
                    if active is not None:
                        claimed = None if entry.context is None else Claimed(entry.context, head_start)
                        execution = Execution(
                            self._install, self._instances, self.queue, self._quota, active=active, audience=audience
                        )
                        try:
                            with about(**self._install.ids, **ids_of(entry.run)):
                                return await execution.run(
                                    request, files, claimed=claimed, deadline=deadline, cancelled=cancelled
                                )
                        finally:
                            self.active.remove(active)
                            self._quota.turn_ended(agent_id)
                raise_late(cancelled)
                result = await self._attend(entry.run, deadline=deadline)
                if result.error is None or result.error.code != "not_sent":
                    await audience.tell(RunEnded(result))
                    return result
        except RunnerError as error:
            redact_error(error, self._install.redactor)
            self._install.metrics.count(ERRORS, error.code)
            await audience.refuse(error)
            raise

    async def note_use(self, agent_id: str) -> None:
        """Remember that this manager uses the agent: at its end it stops those that nobody else uses."""
        if agent_id not in self.used:
            await self._install.store.note_use(self._install.manager_id, agent_id)
            self.used.add(agent_id)

    async def end_all(self, agent_id: str, kind: WishKind, *, task_id: str | None = None) -> Wish:
        """Make all unfinished runs of an agent (or of one task) end, whoever drives them; return the wish.

        It does not wait for their end. The caller drops the wish once they have ended.
        """
        wish = await self._install.store.add_wish(agent_id, kind, task_id=task_id, at=self._install.now())
        for active in self.active:
            if active.run.agent_id == agent_id and task_id in {None, active.run.task_id}:
                active.interrupt(Interruption.ABORTED, wish.words)
        return wish

    async def abort(self, agent_id: str, task_id: str) -> None:
        """End the unfinished runs of one task and wait until they have ended. None: nothing happens."""
        store = self._install.store
        meant = [run for run in await store.queue_of(agent_id) if run.task_id == task_id]
        if not meant:
            return
        wish = await self.end_all(agent_id, WishKind.ABORT, task_id=task_id)
        try:
            for run in meant:
                await self.queue.wait_ended(run.run_id, agent_id)
        finally:
            with anyio.CancelScope(shield=True):
                await store.drop_wish(wish.wish_id)

    async def hear_wishes(self) -> None:
        """Read the wishes of other processes each second, for the runs that are under way here. Runs until cancelled."""
        while True:
            await anyio.sleep(WISH_SECONDS)
            for active in self.active:
                if active.run.state is not RunState.QUEUED and active.interruption is None:
                    for wish in await self._install.store.wishes_for(active.run):
                        active.interrupt(Interruption.ABORTED, wish.words)

    async def _take_head_start(self, agent_id: str, task_id: str) -> HeadStart | None:
        if any(active.run.agent_id == agent_id for active in self.active):
            return None
        return await take_head_start(self._instances.last_used(agent_id), task_id)

    async def _enter(self, agent_id: str, request: RunRequest) -> Entry:
        new = NewRun(
            run_id=new_id("run"),
            agent_id=agent_id,
            task_id=request.task_id,
            owner=self._install.manager_id,
            fingerprint=request.fingerprint(),
            idempotency_key=request.idempotency_key,
            model=request.model,
            created_at=self._install.now(),
            on_interrupt=request.on_interrupt,
        )
        intent = intent_of(self._instances.last_used(agent_id), request.task_id)
        return await self._install.store.enter_run(
            new, must_be_alone=not request.wait, is_alive=self._install.is_alive, intent=intent
        )

    async def _attend(self, run: RunRecord, *, deadline: float | None) -> RunResult:
        with anyio.CancelScope(deadline=math.inf if deadline is None else deadline):
            return await self.queue.wait_ended(run.run_id, run.agent_id)
        raise RunTimedOut(f"Run {run.run_id} goes on, but the time to wait for it was over.")
