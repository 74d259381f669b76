"""A backend in memory, honest about state. Its relatives that fail are in `failing_backends`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import datetime, timedelta
from itertools import count

import anyio
from anyio.lowlevel import checkpoint

from cnap_runner.backends.base import Backend, OnAddress
from cnap_runner.errors import (
    ConflictError,
    ImageNotFound,
    InstanceExited,
    InstanceNotFound,
    InsufficientResources,
    InvalidInput,
)
from cnap_runner.model.engine import Capabilities, EngineInfo
from cnap_runner.model.instance import (
    ExecResult,
    InstanceEvent,
    InstanceEventKind,
    InstanceRef,
    InstanceSpec,
    InstanceStatus,
    Layout,
    Limits,
    LogLine,
    Network,
    NetworkFacts,
    Observation,
    ResourceUsage,
)
from cnap_runner.testing.fake_engine import CAPABILITIES, address, network_facts
from cnap_runner.testing.fake_instance import LAYOUT, USED_BYTES, FakeInstance, unpacked
from cnap_runner.testing.fake_programs import PROGRAMS, FakeFiles, Program, run_program
from cnap_runner.testing.fake_watches import FakeWatches

FIRST_PORT = 40001
"""Of endpoints when nobody serves: nothing listens there."""
SIGTERM_EXIT, SIGKILL_EXIT = 143, 137
REFUSED_EXIT = 78
"""Of a launcher that got no secrets."""

Serve = Callable[[InstanceSpec], Awaitable[str]]
"""Starts a server for an instance and gives its base URL."""


class FakeBackend(Backend):
    """Keeps instances in memory; one object may serve several managers of a test.

    ``serve`` is called at each start and gives the endpoint; without it nothing listens there. ``images`` are those that exist
    (None: all). ``programs`` are added to those that `exec` understands. Besides the contract, `kill` and `emit` play what
    happens inside an instance, and `reconnect` what happens to the watch.
    """

    def __init__(
        self,
        *,
        serve: Serve | None = None,
        images: Collection[str] | None = None,
        programs: Mapping[str, Program] | None = None,
    ) -> None:
        self._serve = serve
        self._images = images
        self.versions: dict[str, str] = {}
        """Of OpenCode, by image, where that says so."""
        self._programs = {**PROGRAMS, **(programs or {})}
        self._instances: dict[str, FakeInstance] = {}
        self._watches = FakeWatches()
        self._ports = count(FIRST_PORT)
        self._hosts = count(2)

    # --- what happens by itself -------------------------------------------------------------------------------------

    def kill(self, instance_id: str, exit_code: int = SIGKILL_EXIT, *, is_oom: bool = False) -> None:
        """End a live instance from inside, as a crash or the kernel does."""
        instance = self._instances[instance_id]
        if not instance.is_live:
            raise InstanceExited(f"{instance_id} is not running.")
        instance.is_oom_killed = is_oom
        if is_oom:
            self._tell(instance, InstanceEventKind.OOM)
        self._end(instance, exit_code)

    def emit(self, instance_id: str, text: str, *, stream: str = "stdout") -> None:
        """Let an instance print one line."""
        instance = self._instances[instance_id]
        instance.emit(text, stream=stream)

    def reconnect(self) -> None:
        """Tell all watches that they were connected anew, as after an engine's restart."""
        self._watches.reconnect()

    def live(self, agent_id: str) -> list[str]:
        """Tell the ids of an agent's live instances."""
        return [key for key, one in self._instances.items() if one.is_live and one.spec.agent_id == agent_id]

    # --- the contract -----------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """All of them, in play."""
        return CAPABILITIES

    def layout(self, spec: InstanceSpec) -> Layout:  # noqa: ARG002 - part of the contract
        """Give the places that containers have."""
        return LAYOUT

    def file_owner(self) -> tuple[int, int] | None:
        """None: files are the test's own."""
        return None

    async def check(self) -> EngineInfo:
        """Give made-up facts."""
        await self._enter()
        return EngineInfo(name="fake", version="1", details={"runtimes": "fake"})

    async def prepare(self, install_id: str) -> None:  # noqa: ARG002 - part of the contract
        """Nothing is shared."""
        await self._enter()

    async def open_network(self, install_id: str) -> NetworkFacts | None:
        """Give made-up facts."""
        await self._enter()
        return network_facts(install_id, Network.OPEN)

    async def closed_network(self, install_id: str) -> NetworkFacts | None:
        """Give made-up facts."""
        await self._enter()
        return network_facts(install_id, Network.CLOSED)

    async def opencode_version(self, image: str) -> str | None:
        """Tell what ``versions`` says."""
        await self._enter()
        return self.versions.get(image)

    async def create(self, spec: InstanceSpec) -> InstanceRef:
        """Remember an instance."""
        await self._enter()
        if (known := self._instances.get(spec.instance_id)) is not None:
            return known.ref
        if self._images is not None and spec.image not in self._images:
            raise ImageNotFound(f"There is no image {spec.image}.")
        ref = InstanceRef(instance_id=spec.instance_id, handle=f"fake-{spec.instance_id}")
        self._instances[spec.instance_id] = FakeInstance(
            spec=spec, ref=ref, files=FakeFiles(spec, LAYOUT), limits=spec.limits
        )
        return ref

    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:
        """Unpack the secrets, serve, and run."""
        await self._enter()
        instance = self._get(ref)
        if instance.is_live:
            return str(instance.endpoint)
        own = address(instance.spec.network, next(self._hosts))
        instance.begin(address=own)
        self._tell(instance, InstanceEventKind.STARTED)
        try:
            if on_address is not None:
                await on_address(own)
            instance.files.secrets = unpacked(secrets)
            instance.endpoint = await self._serve(instance.spec) if self._serve else self._endpoint()
        except BaseException:
            self._end(instance, REFUSED_EXIT)
            raise
        return instance.endpoint

    async def deliver(self, ref: InstanceRef, *, secrets: bytes) -> None:
        """Replace the secrets."""
        await self._enter()
        instance = self._get_live(ref)
        if instance.status is InstanceStatus.PAUSED:
            raise ConflictError(f"{ref.instance_id} is paused.", hint="Resume it first.")
        try:
            instance.files.secrets = unpacked(secrets)
        except InstanceExited as error:
            raise InvalidInput("The secrets are no tar archive.") from error

    async def update_limits(self, ref: InstanceRef, limits: Limits) -> None:
        """Remember the limits."""
        await self._enter()
        instance = self._get(ref)
        if instance.is_live and limits.memory_bytes < USED_BYTES:
            raise InsufficientResources(f"{ref.instance_id} uses {USED_BYTES >> 20} MiB, more than the new limit.")
        instance.limits = limits

    async def stop(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End an instance by the signal that its grace leaves time for."""
        await self._enter()
        instance = self._instances.get(ref.instance_id)
        if instance is not None and instance.is_live:
            self._end(instance, SIGTERM_EXIT if grace else SIGKILL_EXIT)

    async def remove(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End and forget an instance."""
        await self.stop(ref, grace=grace)
        instance = self._instances.pop(ref.instance_id, None)
        if instance is not None:
            self._tell(instance, InstanceEventKind.REMOVED)

    async def pause(self, ref: InstanceRef) -> None:
        """Mark an instance paused."""
        await self._enter()
        instance = self._get_live(ref)
        if instance.status is InstanceStatus.RUNNING:
            instance.status = InstanceStatus.PAUSED
            self._tell(instance, InstanceEventKind.PAUSED)

    async def resume(self, ref: InstanceRef) -> None:
        """Mark an instance running."""
        await self._enter()
        instance = self._get_live(ref)
        if instance.status is InstanceStatus.PAUSED:
            instance.status = InstanceStatus.RUNNING
            self._tell(instance, InstanceEventKind.RESUMED)

    async def inspect(self, ref: InstanceRef) -> Observation:
        """Report one instance."""
        await self._enter()
        return self._get(ref).observation()

    async def list_instances(self, install_id: str) -> list[Observation]:
        """Report an install's instances."""
        await self._enter()
        return [one.observation() for one in self._instances.values() if one.spec.install_id == install_id]

    def events(self, install_id: str) -> AbstractAsyncContextManager[AsyncIterator[InstanceEvent]]:
        """Watch an install's instances."""
        return self._watching(install_id)

    async def logs(
        self, ref: InstanceRef, *, tail: int | None = None, since: datetime | None = None, is_following: bool = False
    ) -> AsyncIterator[LogLine]:
        """Yield what was emitted."""
        await self._enter()
        async with aclosing(self._get(ref).lines(tail=tail, since=since, is_following=is_following)) as lines:
            async for line in lines:
                yield line

    async def usage(self, ref: InstanceRef) -> ResourceUsage:
        """Give made-up figures."""
        await self._enter()
        return self._get_live(ref).usage()

    async def exec(self, ref: InstanceRef, argv: Sequence[str], *, timeout: timedelta) -> ExecResult:
        """Run one of the fake's programs."""
        await self._enter()
        if not argv:
            raise InvalidInput("There is no command to run.")
        instance = self._get_live(ref)
        if instance.status is InstanceStatus.PAUSED:
            raise ConflictError(f"{ref.instance_id} is paused.", hint="Resume it first.")
        with anyio.fail_after(timeout.total_seconds()):
            return await run_program(self._programs, instance.files, argv)

    def shell_command(self, ref: InstanceRef, argv: Sequence[str]) -> list[str]:  # noqa: ARG002 - part of the contract
        """Give the command as it is."""
        return list(argv)

    async def aclose(self) -> None:
        """Nothing is held."""

    async def purge(self, install_id: str) -> None:  # noqa: ARG002 - part of the contract
        """Nothing was made."""
        await self._enter()

    # --- parts ------------------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        """Begin a verb: a place to be cancelled, and for relatives to fail."""
        await checkpoint()

    def _endpoint(self) -> str:
        return f"http://127.0.0.1:{next(self._ports)}"

    def _get(self, ref: InstanceRef) -> FakeInstance:
        instance = self._instances.get(ref.instance_id)
        if instance is None:
            raise InstanceNotFound(f"There is no instance {ref.instance_id}.")
        return instance

    def _get_live(self, ref: InstanceRef) -> FakeInstance:
        instance = self._get(ref)
        if not instance.is_live:
            raise InstanceExited(f"{ref.instance_id} is not running.")
        return instance

    def _end(self, instance: FakeInstance, exit_code: int) -> None:
        instance.end(exit_code)
        self._tell(instance, InstanceEventKind.DIED, exit_code=exit_code)

    def _tell(self, instance: FakeInstance, kind: InstanceEventKind, *, exit_code: int | None = None) -> None:
        instance.tell()
        self._watches.tell(instance.spec, kind, exit_code=exit_code)

    @asynccontextmanager
    async def _watching(self, install_id: str) -> AsyncIterator[AsyncIterator[InstanceEvent]]:
        await self._enter()
        async with self._watches.open(install_id) as events:
            yield events
