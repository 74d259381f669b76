"""A new instance: its place, its seeds, its boot; and what a start that failed leaves behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import anyio
import anyio.to_thread

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import RunnerError
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.boot import Booter, LiveInstance
from cnap_runner.runner.chronicle import note_failed_start, note_start
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.ending import CLEAN_UP, Ending
from cnap_runner.runner.instances.roster import Roster
from cnap_runner.runner.lifecycle.limits import idle_from, limits_of
from cnap_runner.runner.lifecycle.places import Places, StartGate
from cnap_runner.runner.provisioning.planning import Plan, Planner
from cnap_runner.runner.provisioning.workspace_plugins import refuse_plugins
from cnap_runner.runner.recovery.on_disk import OnDisk
from cnap_runner.runner.recovery.upgrading import Upgrades
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.runner.workspaces.seeding import seed_at_start
from cnap_runner.telemetry.logging import about, get_logger

_log = get_logger(__name__)


class Starting:
    """Makes one try to start an agent's instance. The caller holds the agent's lease."""

    def __init__(
        self, install: Install, roster: Roster, booter: Booter, *, planner: Planner, places: Places, ending: Ending
    ) -> None:
        self._install = install
        self._roster = roster
        self._booter = booter
        self._planner = planner
        self._places = places
        self._ending = ending
        self._gate = StartGate(install.settings.starts_at_once)
        self._upgrades = Upgrades(install)

    async def start(self, spec: AgentSpec, record: RunnerRecord) -> tuple[LiveInstance, RunnerRecord]:
        """Start a new instance. When it fails, nothing of it is left, and the record says why."""
        install = self._install
        await self._booter.prepare()
        plan = await self._planner.plan(spec, generation=record.generation + 1)
        starting = _startable(record, install.now()).start_intended(
            instance_id=plan.wanted.instance_id, spec_hash=plan.wanted.spec_hash, at=install.now()
        )
        starting = starting.settled(settings_hash=None, limits=plan.wanted.limits)
        try:
            await self._places.take(starting)
            async with self._gate.passed():
                began = anyio.current_time()
                live = await self._replace(spec, record, plan)
            ready = await self._settle(spec, plan, starting, live)
        except BaseException as error:
            async with shielded(CLEAN_UP):
                if await self._places.is_taken(starting):
                    await self._give_up(starting, error)
            raise
        await note_start(install, ready, took_seconds=anyio.current_time() - began)
        return live, ready

    async def _replace(self, spec: AgentSpec, record: RunnerRecord, plan: Plan) -> LiveInstance:
        """Boot an instance in the place of what is left of those before it."""
        await self._ending.remove_remains(record)
        await seed_at_start(self._install, spec)
        await refuse_plugins(spec, self._install.settings.data_dir)
        await self._upgrades.before_start(record, plan.wanted)
        live = await self._roster.remember(await self._boot(plan))
        await self._upgrades.after_start(record, live.life.version)
        return live

    async def _boot(self, plan: Plan) -> LiveInstance:
        wanted = plan.wanted
        with (
            self._roster.starting(wanted.instance_id) as life,
            about(agent_id=wanted.agent_id, instance_id=wanted.instance_id),
            self._install.tracer.span("start", generation=wanted.generation),
        ):
            return await self._booter.boot(plan, life)

    async def _settle(self, spec: AgentSpec, plan: Plan, starting: RunnerRecord, live: LiveInstance) -> RunnerRecord:
        """Write down what became ready, and as what it was started."""
        install = self._install
        folders = AgentFolders(install.settings.data_dir, spec.agent_id)
        seen = await anyio.to_thread.run_sync(OnDisk.at_start, folders, live.ref.instance_id)
        live.settings_written_at, live.workspace = seen.settings_written_at, seen.workspace
        ready = starting.created(live.ref).became_ready(endpoint=live.endpoint, at=install.now())
        ready = replace(ready, opencode_version=live.life.version)
        ready = ready.settled(settings_hash=plan.settings_hash, limits=plan.wanted.limits)
        ready = idle_from(ready, limits_of(install, spec), install.now())
        await install.save_runner(ready)
        return ready

    async def _give_up(self, record: RunnerRecord, error: BaseException) -> None:
        """Leave nothing of a start that failed, and say why in the record."""
        install = self._install
        is_failure = isinstance(error, Exception)
        reason = install.redactor.redact(error.message) if isinstance(error, RunnerError) else "its start was given up"
        stopping = record.stop_intended(reason=reason, at=install.now())
        try:
            await install.save_runner(stopping)  # before anything ends: the end of what is removed here is no death
            await self._ending.remove_all(record.agent_id)
            await self._upgrades.after_failure(record.agent_id)
        except RunnerError as trouble:
            _log.warning("clean_up_failed", agent_id=record.agent_id, error=str(trouble))
        at = install.now()
        # A start that nobody wants any more is no failure.
        ended = stopping.failed(reason=reason, at=at) if is_failure else stopping.stopped(reason=reason, at=at)
        await install.save_runner(ended.removed())
        if is_failure:
            code = error.code if isinstance(error, RunnerError) else "bug"
            await note_failed_start(install, record, reason, code=code)


def _startable(record: RunnerRecord, at: datetime) -> RunnerRecord:
    """Bring a record left by a dead manager, or by an instance that is gone, to a status a start may follow."""
    if record.status in {RunnerStatus.PENDING, RunnerStatus.STOPPED, RunnerStatus.FAILED}:
        return record
    return record.failed(reason="its instance is gone", at=at)
