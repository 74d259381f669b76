"""One start of one new instance: from a spec to a server that answers with data."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread

from cnap_runner.errors import InstanceExited, InstanceStartFailed, RunnerError, ServerNotReady
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.ids import new_id
from cnap_runner.model.instance import InstanceRef, InstanceSpec
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.feed import SharedFeed
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning import CONFIG_FILE, Provision, instance_spec, provision, spec_hash
from cnap_runner.runner.readiness import wait_until_ready
from cnap_runner.runner.workspace import AgentFolders, folder_error

LAST_WORDS = 5
"""Lines of an instance's output that are quoted when it ends at once."""


@dataclass(slots=True)
class Life:
    """Whether an instance has ended, as the watch saw it."""

    died: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LastTurn:
    """A turn that ended."""

    task_id: str
    session_id: str
    ended_at: datetime
    """As in the store, where it is the agent's ``last_active_at`` until somebody ends another turn."""


@dataclass(slots=True)
class LiveInstance:
    """An instance this manager can talk to."""

    agent_id: str
    ref: InstanceRef
    endpoint: str
    client: OpenCodeClient
    events: SharedFeed
    """Opened by the first turn, kept over all of them."""
    life: Life
    last_turn: LastTurn | None = None
    """The last one that this manager drove here."""

    async def aclose(self) -> None:
        """Close its stream and its connections. The instance stays as it is."""
        await self.events.aclose()
        await self.client.aclose()


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a start needs, worked out before anything is created."""

    wanted: InstanceSpec
    given: Provision


class Booter:
    """Plans and makes instances of one install. Keeps no account of them."""

    def __init__(self, install: Install, template: Mapping[str, Any]) -> None:
        self._install = install
        self._template = template
        self._is_prepared = False

    def hash_of(self, spec: AgentSpec) -> str:
        """Hash what only a new instance can change."""
        return spec_hash(spec, settings=self._install.settings, template=self._template)

    def plan(self, spec: AgentSpec, *, generation: int) -> Plan:
        """Work out a new instance. Raises `InvalidInput` for what cannot work, such as a variable without a value."""
        install = self._install
        wanted = instance_spec(
            spec,
            install_id=install.install_id,
            instance_id=new_id("i"),
            generation=generation,
            settings=install.settings,
            template=self._template,
            volumes=AgentFolders(install.settings.data_dir, spec.agent_id).volumes(),
        )
        layout = install.backend.layout(wanted)
        given = provision(spec, template=self._template, layout=layout, settings=install.settings, variables=os.environ)
        install.redactor.add(*given.secrets.values())
        return Plan(replace(wanted, environment=given.environment), given)

    async def prepare(self) -> None:
        """Make what the install's instances share, before this manager's first one."""
        if not self._is_prepared:
            async with self._install.lock():
                await self._install.backend.prepare(self._install.install_id)
            self._is_prepared = True

    async def boot(self, plan: Plan, life: Life) -> LiveInstance:
        """Create and start an instance and wait until it is ready. What it created is not removed when it fails."""
        install, wanted = self._install, plan.wanted
        try:
            async with _limit_start(install.settings.start_timeout.total_seconds()):
                await anyio.to_thread.run_sync(self._lay_out, wanted.agent_id, plan.given.config)
                ref = await install.backend.create(wanted)
                archive = plan.given.archive(install.password_of(wanted.instance_id))
                endpoint = await install.backend.start(ref, secrets=archive)
            client = await self.connect(endpoint, wanted.instance_id, life)
        except (InstanceExited, ServerNotReady) as error:
            how = f" ({life.reason})" if life.reason else ""
            words = await self._last_words(wanted)
            raise type(error)(f"{error.message}{how}{words}", hint=error.hint) from error
        return LiveInstance(wanted.agent_id, ref, endpoint, client, install.events_of(client), life)

    async def connect(self, endpoint: str, instance_id: str, life: Life) -> OpenCodeClient:
        """Make a client and wait until its server is ready. Raises as `wait_until_ready`."""
        client = self._install.client_for(endpoint, instance_id)
        try:
            await wait_until_ready(client, timeout=self._install.settings.health_timeout, died=life.died)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            raise
        return client

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

    async def _last_words(self, wanted: InstanceSpec) -> str:
        """Quote the end of an instance's output, where there is any."""
        lines: list[str] = []
        with contextlib.suppress(RunnerError):
            for seen in await self._install.backend.list_instances(self._install.install_id):
                if seen.ref.instance_id == wanted.instance_id:
                    logs = self._install.backend.logs(seen.ref, tail=LAST_WORDS)
                    lines += [line.text.strip() async for line in logs]
        words = self._install.redactor.redact(" / ".join(line for line in lines if line))
        return f" Its last words: {words[-500:]}" if words else ""


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
