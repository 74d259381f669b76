"""A ready instance for an agent whose lease is held: used as it is, adopted, or newly started.

A start always makes a new instance, with a new id and generation, and removes the remains of the one before. So an instance lives
once, and a ledger entry that names one says exactly which life of the server its prompt was sent to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread

from cnap_runner.aio.shield import run_shielded, shielded
from cnap_runner.egress.rules import Rule
from cnap_runner.errors import (
    BackendError,
    InstanceExited,
    InstanceNotFound,
    InvalidInput,
    RunnerError,
    ServerError,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import InstanceRef, InstanceStatus, Network
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.boot import Booter, Life, LiveInstance
from cnap_runner.runner.chronicle import note_adoption, note_end, note_failed_start, note_start
from cnap_runner.runner.collectors.following import LogCollectors
from cnap_runner.runner.install import Install
from cnap_runner.runner.lifecycle.limits import idle_from, limits_of
from cnap_runner.runner.lifecycle.places import Places, StartGate
from cnap_runner.runner.lifecycle.steps import LifeSteps
from cnap_runner.runner.lifecycle.waking import note_woken, thaw
from cnap_runner.runner.lifecycle.wear import Wear, age_of
from cnap_runner.runner.provisioning.changes import CannotApply, Changes, PendingChange, is_behind, needs_new_instance
from cnap_runner.runner.provisioning.hardware import network_of
from cnap_runner.runner.provisioning.planning import Plan, Planner
from cnap_runner.runner.provisioning.workspace_plugins import refuse_plugins
from cnap_runner.runner.reach import Reach
from cnap_runner.runner.recovery.on_disk import OnDisk
from cnap_runner.runner.recovery.starting import PatientStart
from cnap_runner.runner.recovery.upgrading import Upgrades
from cnap_runner.runner.secrecy.known import KnownSecrets
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.runner.workspaces.seeding import seed_at_start
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import about, get_logger

CLEAN_UP = timedelta(seconds=15)
_USABLE = frozenset({RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED})

_log = get_logger(__name__)


class Instances:
    """The instances this manager talks to. All methods but `note_death`, `note_freeze` and `last_used` need the agent's lease."""

    def __init__(self, install: Install, template: Mapping[str, Any], logs: LogCollectors) -> None:
        self._install = install
        self._logs = logs
        self._reach = Reach(install)
        self._booter = Booter(install, self._reach)
        self.planner = Planner(install, template)
        self._changes = Changes(install, self.planner)
        self.known_secrets = KnownSecrets(install, self.planner)
        self._live: dict[str, LiveInstance] = {}
        self._starting: dict[str, Life] = {}
        self.steps = LifeSteps(install, self)
        self._places = Places(install, self.steps, clean_up=self.end_abandoned)
        self._gate = StartGate(install.settings.starts_at_once)
        self._patient = PatientStart(install, self._start)
        self._upgrades = Upgrades(install)

    def note_death(self, instance_id: str, reason: str, *, is_out_of_memory: bool = False) -> None:
        """Tell whoever talks to this instance, or starts it, that it ended."""
        lives = [live.life for live in self._live.values() if live.ref.instance_id == instance_id]
        if instance_id in self._starting:
            lives.append(self._starting[instance_id])
        for life in lives:
            life.reason = life.reason or reason
            life.is_out_of_memory = life.is_out_of_memory or is_out_of_memory
            life.died.set()

    def note_freeze(self, instance_id: str, *, is_frozen: bool) -> None:
        """Remember that an instance was frozen or thawed: one that is frozen is looked at, and thawed, before its next use."""
        for live in self._live.values():
            if live.ref.instance_id == instance_id:
                live.life.is_frozen = is_frozen

    def last_used(self, agent_id: str) -> LiveInstance | None:
        """Give the instance this manager used last for an agent; whether it still is the agent's, only the lease's holder knows."""
        return self._live.get(agent_id)

    async def ensure(self, row: AgentRow) -> tuple[LiveInstance, RunnerRecord]:
        """Give a ready instance that fits the agent's spec, and the runner's record as it then is. A start is tried as often as the settings
        say; raises `CrashLooping` where the agent's instances crash again and again, else the error of the last try."""
        live, record = await self.catch_up(row)
        return (live, record) if live is not None else await self._patient.start(row, record)

    async def catch_up(self, row: AgentRow, *, is_rotation: bool = False) -> tuple[LiveInstance | None, RunnerRecord]:
        """Bring the present instance up to date with the agent's spec; None where there is none, or only a new one can be: then the
        present one is ended. Starts nothing. ``is_rotation`` as for `Changes.apply`."""
        spec, record = row.spec, row.runner
        if record.status not in _USABLE:
            return None, record
        if needs_new_instance(record, self.planner.target(spec)):
            # What could not be started here must not end what runs.
            await self.planner.plan(spec, generation=record.generation + 1)
            return None, await self._end_whole(
                record, reason="its settings changed, which only a new container can take up"
            )
        if (worn := await self._worn(row)) is not None:
            return None, await self._end_whole(record, reason=worn.reason, kind=worn.kind, evidence=worn.evidence)
        live = await self._use(record)
        if live is None:
            return None, record
        if record.status is RunnerStatus.PAUSED:
            record = await note_woken(self._install, spec, record)
        await self.known_secrets.keep_up(row)
        record = replace(record, status=RunnerStatus.READY, endpoint=live.endpoint)
        await self._keep_reach(spec, live)
        seen = await self._on_disk(spec)
        if seen.has_replaced(live.workspace):
            reason = "its workspace was removed or replaced on the host, while its container had the former one"
            return None, await self._end_whole(record, reason=reason)
        live.workspace = seen.workspace
        has_read = live.last_turn is not None and live.settings_written_at == seen.settings_written_at
        if not has_read or is_rotation or is_behind(record, self.planner.target(spec)):
            # It is about to read its workspace: for the first time, as far as is known here, or anew.
            await refuse_plugins(spec, self._install.settings.data_dir)
        try:
            settled = await self._changes.apply(live, spec, record, is_rotation=is_rotation)
        except CannotApply as reason:
            return None, await self._end_whole(record, reason=str(reason))
        # Most turns change nothing, and nobody else writes while the lease is held.
        seen = seen if settled is record else await self._on_disk(spec)
        live.settings_written_at = seen.settings_written_at
        return live, settled

    async def _on_disk(self, spec: AgentSpec) -> OnDisk:
        folders = AgentFolders(self._install.settings.data_dir, spec.agent_id)
        return await anyio.to_thread.run_sync(OnDisk.of, folders)

    async def pending(self, row: AgentRow, *, is_in_turn: bool) -> list[PendingChange]:
        """Tell what the present instance does not have yet, as `Changes.pending`. Needs no lease."""
        return await self._changes.pending(row.spec, row.runner, is_in_turn=is_in_turn)

    async def change_reach(self, row: AgentRow) -> None:
        """Let a new list of what an agent may reach apply at once, in the middle of a turn too. Needs no lease."""
        if network_of(row.spec) is Network.CLOSED and row.runner.instance_id is not None:
            rules = await self._rules(row.spec)
            if rules is not None:
                await self._reach.change(row.runner.instance_id, rules)

    async def _keep_reach(self, spec: AgentSpec, live: LiveInstance) -> None:
        if network_of(spec) is Network.CLOSED:
            await self._reach.keep(live.ref, spec.agent_id, await self._rules(spec))

    async def _rules(self, spec: AgentSpec) -> tuple[Rule, ...] | None:
        """Work out what an agent may reach; None where this process cannot: it then leaves it as it is."""
        try:
            return await self.planner.rules(spec)
        except InvalidInput as error:
            _log.warning("rules_not_applied", agent_id=spec.agent_id, reason=error.message)
            return None

    async def use_as_it_is(self, record: RunnerRecord) -> LiveInstance | None:
        """Give the present instance if it lives and answers, whatever its spec; None otherwise. Starts nothing."""
        return await self._use(record) if record.ref is not None else None

    async def distrust(self, agent_id: str) -> None:
        """Believe nothing of what is remembered about an agent's instance: look at it anew when it is next needed."""
        await self._forget(agent_id)

    async def end(
        self,
        record: RunnerRecord,
        *,
        reason: str,
        kind: DecisionKind = DecisionKind.STOPPED,
        evidence: Evidence | None = None,
    ) -> RunnerRecord:
        """Stop the present instance, in whatever status, and say so in the store, and in the agent's log as ``kind``. Its remains stay
        for its logs. One that is stopped already is not written down again."""
        install, was_stopped = self._install, record.status is RunnerStatus.STOPPED
        if record.ref is None and record.instance_id is None:
            return record
        if record.status not in {RunnerStatus.STOPPED, RunnerStatus.STOPPING}:
            record = record.stop_intended(reason=reason, at=install.now())
            await install.save_runner(record)
        await self._forget(record.agent_id)
        for ref in [record.ref] if record.ref is not None else await self._refs_of(record.agent_id):
            await install.backend.stop(ref, grace=install.settings.stop_timeout)
            await self._reach.forget({ref.instance_id})
        if record.status is not RunnerStatus.STOPPED:
            record = record.stopped(reason=reason, at=install.now())
            await install.save_runner(record)
        if not was_stopped:
            await note_end(install, record, kind, reason, evidence)
        return record

    async def _end_whole(
        self,
        record: RunnerRecord,
        *,
        reason: str,
        kind: DecisionKind = DecisionKind.RECYCLED_CHANGE,
        evidence: Evidence | None = None,
    ) -> RunnerRecord:
        """End the present instance for a change, even if nobody waits for that any more: an end half done would keep its place."""
        limit = self._install.settings.stop_timeout + CLEAN_UP
        ended: list[RunnerRecord] = []

        async def end() -> None:
            ended.append(await self.end(record, reason=reason, kind=kind, evidence=evidence))

        await run_shielded(end, limit=limit)
        if not ended:
            raise BackendError(f"The instance of agent {record.agent_id} could not be ended within {limit}.")
        return ended[0]

    async def discard(self, record: RunnerRecord, *, reason: str) -> None:
        """End the present instance and remove all that is left of any; the record says that there is none."""
        ended = await self.end(record, reason=reason)
        await self.remove_all(record.agent_id)
        await self._install.save_runner(ended.removed())

    async def end_abandoned(self) -> None:
        """End what a manager that was killed had begun to start or stop: it would take a place for ever."""
        install = self._install
        for seen in await install.store.list_runners({RunnerStatus.STARTING, RunnerStatus.STOPPING}):
            agent_id, status = seen.agent_id, seen.status
            if not await install.store.acquire_lease(
                agent_id, install.manager_id, "clean-up", at=install.now(), is_alive=install.is_alive
            ):
                continue
            try:
                record = (await install.store.get_agent(agent_id)).runner
                if record.status is status and record.instance_id == seen.instance_id:
                    await self.remove_all(agent_id)
                    reason = f"its manager ended while it was {status}"
                    await install.save_runner(record.failed(reason=reason, at=install.now()).removed())
                    await note_end(install, record, DecisionKind.STOPPED, reason)
            finally:
                with anyio.CancelScope(shield=True):
                    await install.store.release_lease(agent_id, install.manager_id)

    async def remove_all(self, agent_id: str) -> None:
        """Remove every instance of an agent from the backend."""
        await self._forget(agent_id)
        for ref in await self._refs_of(agent_id):
            await self._remove(agent_id, ref)

    async def remove_stray(self, ref: InstanceRef) -> None:
        """End and remove one instance that is no agent's present one, at once: it may have the same files open as another one."""
        await self._install.backend.remove(ref, grace=self._install.settings.stop_timeout)
        await self._reach.forget({ref.instance_id})

    async def aclose(self) -> None:
        """Close all streams and clients. Instances stay as they are."""
        for live in self._live.values():
            live.events.cancel()  # at once, whatever becomes of the closing below
        for agent_id in list(self._live):
            await self._forget(agent_id)

    # --- using what runs ----------------------------------------------------------------------------------------------

    async def _use(self, record: RunnerRecord) -> LiveInstance | None:
        live = self._live.get(record.agent_id)
        if live is None or live.ref.instance_id != record.instance_id or live.life.died.is_set():
            return await self._adopt(record)
        is_frozen = live.life.is_frozen or record.status is RunnerStatus.PAUSED
        return live if not is_frozen or await thaw(self._install, live) else await self._adopt(record)

    async def _worn(self, row: AgentRow) -> Wear | None:
        """Tell why the present instance is to be replaced before it is used again, unless no other could be started here."""
        live = self._live.get(row.spec.agent_id)
        is_ours = live is not None and live.ref.instance_id == row.runner.instance_id
        found = live.worn if live is not None and is_ours else None
        found = found or age_of(row.runner, limits_of(self._install, row.spec), self._install)
        if found is not None:
            try:
                await self.planner.plan(row.spec, generation=row.runner.generation + 1)
            except InvalidInput as error:
                _log.warning("worn_instance_kept", agent_id=row.spec.agent_id, error=error.message)
                return None
        return found

    async def _adopt(self, record: RunnerRecord) -> LiveInstance | None:
        """Find out whether the recorded instance still serves, and take it over; None where it does not."""
        install = self._install
        if record.ref is None:
            return None
        try:
            seen = await install.backend.inspect(record.ref)
            if seen.status is InstanceStatus.PAUSED:
                await install.backend.resume(record.ref)
            elif seen.status is not InstanceStatus.RUNNING:
                return None
        except (InstanceNotFound, InstanceExited):
            return None
        if seen.endpoint is None:
            return None
        await self.known_secrets.learn(record.agent_id)
        life = Life()
        try:
            client = await self._booter.connect(seen.endpoint, record.ref.instance_id, life)
        except (ServerError, InstanceExited) as error:
            _log.warning("adoption_failed", agent_id=record.agent_id, error=str(error))
            return None
        await note_adoption(install, record)
        events = install.events_of(client)
        return await self._remember(LiveInstance(record.agent_id, record.ref, seen.endpoint, client, events, life))

    async def _remember(self, live: LiveInstance) -> LiveInstance:
        await self._forget(live.agent_id)
        self._live[live.agent_id] = live
        self._logs.follow(live.agent_id, live.ref)
        return live

    async def _forget(self, agent_id: str) -> None:
        live = self._live.pop(agent_id, None)
        if live is not None:
            await live.aclose()

    # --- starting -----------------------------------------------------------------------------------------------------

    async def _start(self, spec: AgentSpec, record: RunnerRecord) -> tuple[LiveInstance, RunnerRecord]:
        """Start a new instance. When it fails, nothing of it is left, and the record says why."""
        install = self._install
        await self._booter.prepare()
        plan = await self.planner.plan(spec, generation=record.generation + 1)
        starting = _startable(record, install.now()).start_intended(
            instance_id=plan.wanted.instance_id, spec_hash=plan.wanted.spec_hash, at=install.now()
        )
        starting = starting.settled(settings_hash=None, limits=plan.wanted.limits)
        await self._places.take(starting)
        try:
            async with self._gate.passed():
                began = anyio.current_time()
                await self._remove_remains(record)
                await seed_at_start(install, spec)
                await refuse_plugins(spec, install.settings.data_dir)
                await self._upgrades.before_start(record, plan.wanted)
                live = await self._remember(await self._boot(plan))
                await self._upgrades.after_start(record, live.life.version)
            seen = await self._on_disk(spec)
            live.settings_written_at, live.workspace = seen.settings_written_at, seen.workspace
            ready = starting.created(live.ref).became_ready(endpoint=live.endpoint, at=install.now())
            ready = replace(ready, opencode_version=live.life.version)
            ready = ready.settled(settings_hash=plan.settings_hash, limits=plan.wanted.limits)
            ready = idle_from(ready, limits_of(install, spec), install.now())
            await install.save_runner(ready)
        except BaseException as error:
            async with shielded(CLEAN_UP):
                await self._give_up(starting, error)
            raise
        await note_start(install, ready, took_seconds=anyio.current_time() - began)
        return live, ready

    async def _boot(self, plan: Plan) -> LiveInstance:
        life = self._starting[plan.wanted.instance_id] = Life()
        try:
            with (
                about(agent_id=plan.wanted.agent_id, instance_id=plan.wanted.instance_id),
                self._install.tracer.span("start", generation=plan.wanted.generation),
            ):
                return await self._booter.boot(plan, life)
        finally:
            del self._starting[plan.wanted.instance_id]

    async def _remove_remains(self, record: RunnerRecord) -> None:
        """End and remove what is left of earlier instances: two servers must never share one state folder.

        The record names it, unless whoever created it ended before it could be written; a first instance has none before it.
        """
        await self._forget(record.agent_id)
        if record.ref is not None:
            await self._remove(record.agent_id, record.ref)
        elif record.generation > 0:
            await self.remove_all(record.agent_id)

    async def _remove(self, agent_id: str, ref: InstanceRef) -> None:
        """End and remove an instance, after its last words were collected."""
        install = self._install
        await install.backend.stop(ref, grace=install.settings.stop_timeout)
        await self._logs.complete(agent_id, ref)
        await install.backend.remove(ref, grace=install.settings.stop_timeout)
        _log.info("instance_removed", agent_id=agent_id, instance_id=ref.instance_id)
        await self._reach.forget({ref.instance_id})
        install.redactor.remove(
            install.password_of(ref.instance_id)
        )  # It opens nothing any more; else they only grew in number.

    async def _refs_of(self, agent_id: str) -> list[InstanceRef]:
        seen = await self._install.backend.list_instances(self._install.install_id)
        return [observation.ref for observation in seen if observation.agent_id == agent_id]

    async def _give_up(self, record: RunnerRecord, error: BaseException) -> None:
        """Leave nothing of a start that failed, and say why in the record."""
        install = self._install
        is_failure = isinstance(error, Exception)
        reason = install.redactor.redact(error.message) if isinstance(error, RunnerError) else "its start was given up"
        stopping = record.stop_intended(reason=reason, at=install.now())
        try:
            await install.save_runner(stopping)  # before anything ends: the end of what is removed here is no death
            await self.remove_all(record.agent_id)
            await self._upgrades.after_failure(record.agent_id)
        except RunnerError as trouble:
            _log.warning("clean_up_failed", agent_id=record.agent_id, error=str(trouble))
        at = install.now()
        # A start that nobody wants any more is no failure.
        ended = stopping.failed(reason=reason, at=at) if is_failure else stopping.stopped(reason=reason, at=at)
        await install.save_runner(ended.removed())
        if is_failure:
            await note_failed_start(
                install, record, reason, code=error.code if isinstance(error, RunnerError) else "bug"
            )


def _startable(record: RunnerRecord, at: datetime) -> RunnerRecord:
    """Bring a record left by a dead manager, or by an instance that is gone, to a status a start may follow."""
    if record.status in {RunnerStatus.PENDING, RunnerStatus.STOPPED, RunnerStatus.FAILED}:
        return record
    return record.failed(reason="its instance is gone", at=at)
