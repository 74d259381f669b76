"""A ready instance for an agent whose lease is held: used as it is, adopted, or newly started.

A start always makes a new instance, with a new id and generation, and removes the remains of the one before. So an instance lives
once, and a ledger entry that names one says exactly which life of the server its prompt was sent to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import anyio

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import (
    InstanceExited,
    InstanceNotFound,
    InstanceStartFailed,
    MaxContainersReached,
    RunnerError,
    ServerError,
    ServerNotReady,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.ids import new_id
from cnap_runner.model.instance import InstanceRef, InstanceSpec, InstanceStatus
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning import CONFIG_FILE, Provision, instance_spec, provision, spec_hash
from cnap_runner.runner.readiness import wait_until_ready
from cnap_runner.runner.workspace import AgentFolders, folder_error
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

CLEAN_UP = timedelta(seconds=15)
PLACE_POLL_SECONDS = 0.25
LAST_WORDS = 5
"""Lines of an instance's output that are quoted when it ends at once."""

_log = get_logger(__name__)


@dataclass(slots=True)
class Life:
    """Whether an instance has ended, as the watch saw it."""

    died: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""


@dataclass(slots=True)
class LiveInstance:
    """An instance this manager can talk to."""

    agent_id: str
    ref: InstanceRef
    endpoint: str
    client: OpenCodeClient
    life: Life


class Instances:
    """The instances this manager talks to. All methods but `note_death` need the agent's lease."""

    def __init__(self, install: Install, template: Mapping[str, Any]) -> None:
        self._install = install
        self._template = template
        self._live: dict[str, LiveInstance] = {}
        self._starting: dict[str, Life] = {}
        self._is_prepared = False

    def note_death(self, instance_id: str, reason: str) -> None:
        """Tell whoever talks to this instance, or starts it, that it ended."""
        lives = [live.life for live in self._live.values() if live.ref.instance_id == instance_id]
        if instance_id in self._starting:
            lives.append(self._starting[instance_id])
        for life in lives:
            life.reason = life.reason or reason
            life.died.set()

    async def ensure(self, row: AgentRow) -> tuple[LiveInstance, RunnerRecord]:
        """Give a ready instance that fits the agent's spec, and the runner's record as it then is."""
        record = row.runner
        if record.status in {RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED}:
            if record.spec_hash == self._hash(row.spec):
                live = await self._use(record)
                if live is not None:
                    return live, replace(record, status=RunnerStatus.READY, endpoint=live.endpoint)
            elif record.ref is not None:
                record = await self.end(record, reason="its settings changed")
        return await self._start(row.spec, record)

    async def use_as_it_is(self, record: RunnerRecord) -> LiveInstance | None:
        """Give the present instance if it lives and answers, whatever its spec; None otherwise. Starts nothing."""
        return await self._use(record) if record.ref is not None else None

    async def distrust(self, agent_id: str) -> None:
        """Believe nothing of what is remembered about an agent's instance: look at it anew when it is next needed."""
        await self._forget(agent_id)

    async def end(self, record: RunnerRecord, *, reason: str) -> RunnerRecord:
        """Stop the present instance, in whatever status, and say so in the store. Its remains stay for its logs."""
        install = self._install
        if record.ref is None and record.instance_id is None:
            return record
        if record.status not in {RunnerStatus.STOPPED, RunnerStatus.STOPPING}:
            record = record.stop_intended(reason=reason, at=install.now())
            await install.save_runner(record)
        await self._forget(record.agent_id)
        for ref in await self._refs_of(record.agent_id):
            await install.backend.stop(ref, grace=install.settings.stop_timeout)
        if record.status is not RunnerStatus.STOPPED:
            record = record.stopped(reason=reason, at=install.now())
            await install.save_runner(record)
        _log.info("runner_stopped", agent_id=record.agent_id, reason=reason)
        return record

    async def remove_all(self, agent_id: str) -> None:
        """Remove every instance of an agent from the backend."""
        await self._forget(agent_id)
        for ref in await self._refs_of(agent_id):
            await self._install.backend.remove(ref, grace=self._install.settings.stop_timeout)

    async def aclose(self) -> None:
        """Close all clients. Instances stay as they are."""
        for agent_id in list(self._live):
            await self._forget(agent_id)

    # --- using what runs ----------------------------------------------------------------------------------------------

    async def _use(self, record: RunnerRecord) -> LiveInstance | None:
        live = self._live.get(record.agent_id)
        if live is not None and live.ref.instance_id == record.instance_id and not live.life.died.is_set():
            return live
        return await self._adopt(record)

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
        client = install.client_for(seen.endpoint, record.ref.instance_id)
        life = Life()
        try:
            await wait_until_ready(client, timeout=install.settings.health_timeout, died=life.died)
        except (ServerError, InstanceExited) as error:
            await client.aclose()
            _log.warning("adoption_failed", agent_id=record.agent_id, error=str(error))
            return None
        _log.info("instance_adopted", agent_id=record.agent_id, instance_id=record.instance_id)
        return await self._remember(record.agent_id, record.ref, seen.endpoint, client, life)

    async def _remember(
        self, agent_id: str, ref: InstanceRef, endpoint: str, client: OpenCodeClient, life: Life
    ) -> LiveInstance:
        await self._forget(agent_id)
        live = LiveInstance(agent_id=agent_id, ref=ref, endpoint=endpoint, client=client, life=life)
        self._live[agent_id] = live
        return live

    async def _forget(self, agent_id: str) -> None:
        live = self._live.pop(agent_id, None)
        if live is not None:
            await live.client.aclose()

    # --- starting -----------------------------------------------------------------------------------------------------

    async def _start(self, spec: AgentSpec, record: RunnerRecord) -> tuple[LiveInstance, RunnerRecord]:
        """Start a new instance. When it fails, nothing of it is left, and the record says why."""
        install = self._install
        await self._prepare()
        instance_id = new_id("i")
        wanted = self._wanted(spec, instance_id, record.generation + 1)
        layout = install.backend.layout(wanted)
        given = provision(spec, template=self._template, layout=layout, settings=install.settings, variables=os.environ)
        install.redactor.add(*given.secrets.values())
        record = _startable(record, install.now()).start_intended(
            instance_id=instance_id, spec_hash=wanted.spec_hash, at=install.now()
        )
        await self._take_place(record)
        try:
            live = await self._boot(replace(wanted, environment=given.environment), given)
        except BaseException as error:
            async with shielded(CLEAN_UP):
                await self._give_up(record, error)
            raise
        record = record.created(live.ref).became_ready(endpoint=live.endpoint, at=install.now())
        await install.save_runner(record)
        _log.info("instance_started", agent_id=spec.agent_id, instance_id=instance_id, generation=record.generation)
        return live, record

    async def _prepare(self) -> None:
        """Make what the install's instances share, before this manager's first one."""
        if not self._is_prepared:
            async with self._install.lock():
                await self._install.backend.prepare(self._install.install_id)
            self._is_prepared = True

    def _wanted(self, spec: AgentSpec, instance_id: str, generation: int) -> InstanceSpec:
        install = self._install
        return instance_spec(
            spec,
            install_id=install.install_id,
            instance_id=instance_id,
            generation=generation,
            settings=install.settings,
            template=self._template,
            volumes=AgentFolders(install.settings.data_dir, spec.agent_id).volumes(),
        )

    async def _take_place(self, record: RunnerRecord) -> None:
        """Wait for one of the places of ``max_containers``, at most ``start_timeout``."""
        install = self._install
        with anyio.move_on_after(install.settings.start_timeout.total_seconds()):
            while not await install.store.reserve_start(
                record, manager_id=install.manager_id, max_containers=install.settings.max_containers
            ):
                await anyio.sleep(PLACE_POLL_SECONDS)
            install.known.see(record)
            return
        raise MaxContainersReached(f"All {install.settings.max_containers} places for containers are taken.")

    async def _boot(self, wanted: InstanceSpec, given: Provision) -> LiveInstance:
        install = self._install
        password = install.password_of(wanted.instance_id)
        life = self._starting[wanted.instance_id] = Life()
        try:
            async with _limit_start(install.settings.start_timeout.total_seconds()):
                await anyio.to_thread.run_sync(self._lay_out, wanted.agent_id, given.config)
                await self._remove_remains(wanted.agent_id)
                ref = await install.backend.create(wanted)
                endpoint = await install.backend.start(ref, secrets=given.archive(password))
            client = install.client_for(endpoint, wanted.instance_id)
            try:
                await wait_until_ready(client, timeout=install.settings.health_timeout, died=life.died)
            except BaseException:
                await client.aclose()
                raise
            return await self._remember(wanted.agent_id, ref, endpoint, client, life)
        except (InstanceExited, ServerNotReady) as error:
            how = f" ({life.reason})" if life.reason else ""
            raise type(error)(f"{error.message}{how}{await self._last_words(wanted)}", hint=error.hint) from error
        finally:
            del self._starting[wanted.instance_id]

    def _lay_out(self, agent_id: str, config: str) -> None:
        """Make the agent's folders and write its settings, whole or not at all. Runs in a thread."""
        folders = AgentFolders(self._install.settings.data_dir, agent_id)
        folders.make(self._install.backend.file_owner())
        draft = folders.settings / f".{CONFIG_FILE}.new"
        try:
            draft.write_text(config, encoding="utf-8")
            draft.chmod(0o644)
            draft.replace(folders.settings / CONFIG_FILE)
        except OSError as error:
            raise folder_error(folders.settings, error) from error

    async def _remove_remains(self, agent_id: str) -> None:
        """End and remove what is left of earlier instances: two servers must never share one state folder."""
        await self._forget(agent_id)
        for ref in await self._refs_of(agent_id):
            await self._install.backend.remove(ref, grace=self._install.settings.stop_timeout)

    async def _refs_of(self, agent_id: str) -> list[InstanceRef]:
        seen = await self._install.backend.list_instances(self._install.install_id)
        return [observation.ref for observation in seen if observation.agent_id == agent_id]

    async def _last_words(self, wanted: InstanceSpec) -> str:
        """Quote the end of an instance's output, where there is any."""
        lines: list[str] = []
        with contextlib.suppress(RunnerError):
            for ref in await self._refs_of(wanted.agent_id):
                lines += [line.text.strip() async for line in self._install.backend.logs(ref, tail=LAST_WORDS)]
        words = self._install.redactor.redact(" / ".join(line for line in lines if line))
        return f" Its last words: {words[-500:]}" if words else ""

    async def _give_up(self, record: RunnerRecord, error: BaseException) -> None:
        """Leave nothing of a start that failed, and say why in the record."""
        install = self._install
        reason = (
            install.redactor.redact(error.message) if isinstance(error, RunnerError) else "its start was interrupted"
        )
        try:
            await self.remove_all(record.agent_id)
        except RunnerError as trouble:
            _log.warning("clean_up_failed", agent_id=record.agent_id, error=str(trouble))
        failed = record.failed(reason=reason, at=install.now()).removed()
        await install.save_runner(failed)
        _log.warning("instance_start_failed", agent_id=record.agent_id, reason=reason)

    def _hash(self, spec: AgentSpec) -> str:
        return spec_hash(spec, settings=self._install.settings, template=self._template)


def _startable(record: RunnerRecord, at: Any) -> RunnerRecord:
    """Bring a record left by a dead manager, or by an instance that is gone, to a status a start may follow."""
    if record.status in {RunnerStatus.PENDING, RunnerStatus.STOPPED, RunnerStatus.FAILED}:
        return record
    return record.failed(reason="its instance is gone", at=at)


@contextlib.asynccontextmanager
async def _limit_start(seconds: float) -> AsyncIterator[None]:
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise InstanceStartFailed(
            f"The instance could not be created and started within {seconds:g} s.",
            hint="The engine is slow or overloaded; CNAP_RUNNER_START_TIMEOUT gives it more time.",
        ) from error
