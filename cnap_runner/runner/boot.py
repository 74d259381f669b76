"""One start of one new instance: from a spec to a server that answers with data."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

import anyio
import anyio.to_thread

from cnap_runner.aio.both import both
from cnap_runner.backends.base import OnAddress
from cnap_runner.errors import (
    InstanceExited,
    InstanceStartFailed,
    OutOfMemory,
    RunnerError,
    ServerNotReady,
    UnsupportedServerVersion,
)
from cnap_runner.model.counts import CONTAINERS_CREATED
from cnap_runner.model.instance import InstanceRef, InstanceSpec, Network
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.feed import SharedFeed
from cnap_runner.runner.install import Install
from cnap_runner.runner.lifecycle.wear import Wear
from cnap_runner.runner.provisioning.planning import Plan
from cnap_runner.runner.provisioning.settings_folder import write_settings
from cnap_runner.runner.reach import Reach
from cnap_runner.runner.readiness import wait_until_ready
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.logging import get_logger

LAST_WORDS = 5
"""Lines of an instance's output that are quoted when it ends at once."""


_log = get_logger(__name__)


@dataclass(slots=True)
class Life:
    """What became of an instance, as the watch saw it."""

    died: anyio.Event = field(default_factory=anyio.Event)
    reason: str = ""
    is_out_of_memory: bool = False
    version: str | None = None
    """Of its server, as that said when it was ready."""
    is_frozen: bool = False
    """Whoever froze it may have been killed before thawing it."""

    @property
    def can_serve(self) -> bool:
        """Whether nothing is known that keeps its server from answering."""
        return not self.died.is_set() and not self.is_frozen


@dataclass(frozen=True, slots=True)
class LastTurn:
    """A turn that ended."""

    task_id: str
    session_id: str
    ended_at: datetime
    """As in the store, where it is the agent's ``last_active_at`` until somebody ends another turn."""
    last_message_id: str | None
    """Of the session; None: not known."""


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
    settings_written_at: int | None = None
    """As `written_at` told when this manager used it last: another one may have let it read its settings anew since."""
    workspace: tuple[int, int] | None = None
    """Which folder it has as its workspace, as `OnDisk` told when it started; None: not known yet."""
    worn: Wear | None = None
    """Why another instance is to take its place before it is used again."""

    async def aclose(self) -> None:
        """Close its stream and its connections. The instance stays as it is."""
        await self.events.aclose()
        await self.client.aclose()


class Booter:
    """Makes instances of one install. Keeps no account of them."""

    def __init__(self, install: Install, reach: Reach) -> None:
        self._install = install
        self._reach = reach
        self._is_prepared = False

    async def prepare(self) -> None:
        """Make what the install's instances share, before this manager's first one."""
        if not self._is_prepared:
            async with self._install.lock():
                await self._install.backend.prepare(self._install.install_id)
            self._is_prepared = True

    async def boot(self, plan: Plan, life: Life) -> LiveInstance:
        """Create and start an instance and wait until it is ready. What it created is not removed when it fails."""
        install = self._install
        wanted = await self._with_kit(plan.wanted)
        try:
            async with _limit_start(install.settings.start_timeout.total_seconds()):
                await anyio.to_thread.run_sync(self._lay_out, wanted.agent_id, plan.given.files)
                ref = await self._create(wanted)
                archive = plan.given.archive(install.password_of(wanted.instance_id))
                endpoint = await install.backend.start(ref, secrets=archive, on_address=self._admission(plan))
            client = await self.connect(endpoint, wanted.instance_id, life, has_served=False)
        except (InstanceExited, ServerNotReady) as error:
            how = f" ({life.reason})" if life.reason else ""
            words = await self._last_words(wanted)
            kind = OutOfMemory if life.is_out_of_memory else type(error)
            hint = None if life.is_out_of_memory else error.hint
            raise kind(f"{error.message}{how}{words}", hint=hint) from error
        except UnsupportedServerVersion as error:
            if wanted.image != install.settings.image and wanted.kit is None:
                error.hint = (
                    f"Image {wanted.image} is the agent's own and brings its own OpenCode: build it anew on {install.settings.image}, "
                    "or on an image without OpenCode, into which it is then brought."
                )
            raise
        return LiveInstance(wanted.agent_id, ref, endpoint, client, install.events_of(client), life)

    async def connect(self, endpoint: str, instance_id: str, life: Life, *, has_served: bool = True) -> OpenCodeClient:
        """Make a client and wait until its server is ready. Raises as `wait_until_ready`."""
        client = self._install.client_for(endpoint, instance_id)
        try:
            timeout = self._install.settings.health_timeout
            life.version = await wait_until_ready(client, timeout=timeout, died=life.died, has_served=has_served)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            raise
        return client

    async def _create(self, wanted: InstanceSpec) -> InstanceRef:
        """Create an instance, with its network as it should be by the time anything of it runs."""
        if wanted.network is Network.OPEN:
            ref = (await both(self._install.backend.create(wanted), self._reach.guard_open()))[0]
        else:
            closed = replace(wanted, environment={**wanted.environment, **await self._reach.close()})
            ref = await self._install.backend.create(closed)
        self._install.metrics.count(CONTAINERS_CREATED)
        _log.info("instance_created", image=wanted.image, generation=wanted.generation)
        return ref

    def _admission(self, plan: Plan) -> OnAddress | None:
        """Give what is to be done once the instance's address is known: then its rules can be written."""
        return partial(self._reach.admit, plan.wanted, plan.rules) if plan.wanted.network is Network.CLOSED else None

    async def _with_kit(self, wanted: InstanceSpec) -> InstanceSpec:
        """Add what an image that is not ours lacks. No part of a start's time: the kit is copied out of our image once."""
        if wanted.image == self._install.settings.image:
            return wanted
        return replace(wanted, kit=await anyio.to_thread.run_sync(self._install.kit_for, wanted.image))

    def _lay_out(self, agent_id: str, files: Mapping[str, str]) -> None:
        """Make the agent's folders and write its settings. Runs in a thread."""
        folders = AgentFolders(self._install.settings.data_dir, agent_id)
        folders.make(self._install.backend.file_owner())
        write_settings(folders.settings, files)

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
