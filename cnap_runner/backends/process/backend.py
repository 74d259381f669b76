"""The process backend: each instance is a launcher and an OpenCode server below it, found again by its folder.

All state lies in ``data_dir/processes/{instance_id}``, so every verb works from any process of the same user.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from cnap_runner.backends.base import Backend, OnAddress
from cnap_runner.backends.process.commands import run_command
from cnap_runner.backends.process.delivery import replace_secrets
from cnap_runner.backends.process.ending import ask_to_end, await_end
from cnap_runner.backends.process.environment import instance_environment, layout_in
from cnap_runner.backends.process.folders import InstanceFolders, load_record, load_status, translated
from cnap_runner.backends.process.freeze import is_frozen, pause, require_live, resume
from cnap_runner.backends.process.logs import LogReader
from cnap_runner.backends.process.measure import measure
from cnap_runner.backends.process.observe import end_remains, endpoint_of, is_running, observe, settle
from cnap_runner.backends.process.program import look_around
from cnap_runner.backends.process.record import InstanceRecord
from cnap_runner.backends.process.refusals import refuse_containers_own
from cnap_runner.backends.process.spawn import spawn, still_starting
from cnap_runner.backends.process.watch import Watch
from cnap_runner.errors import BackendError, ConflictError, InstanceNotFound, InvalidInput
from cnap_runner.model.engine import Capabilities, EngineInfo
from cnap_runner.model.instance import (
    ExecResult,
    InstanceEvent,
    InstanceRef,
    InstanceSpec,
    Layout,
    Limits,
    LogLine,
    NetworkFacts,
    Observation,
    ResourceUsage,
)

_T = TypeVar("_T")

CAPABILITIES = Capabilities(
    has_images=False,
    isolates_files=False,
    isolates_network=False,
    isolates_processes=False,
    limits_memory=False,
    limits_cpu=False,
    limits_pids=False,
    can_pause=True,
    closes_network=False,
    has_runtimes=False,
    grants_hardware=False,
    survives_manager=True,
)
_PORT_POLL_SECONDS = 0.02
_FOLLOW_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 0.8


class ProcessBackend(Backend):
    """Runs OpenCode as child processes of this user, for machines without an engine.

    Whatever an agent starts ends with its instance, even what daemonises. Two things escape: processes that give themselves another
    parent *and* drop their environment, when the launcher itself is killed or when they were started by `exec`.
    """

    def __init__(self, *, data_dir: Path, opencode_binary: Path) -> None:
        self._folders = InstanceFolders(data_dir)
        self._binary = opencode_binary.absolute()
        self._watches: set[Watch] = set()

    @property
    def capabilities(self) -> Capabilities:
        """It keeps instances alive and can pause them; it isolates and limits nothing."""
        return CAPABILITIES

    def layout(self, spec: InstanceSpec) -> Layout:
        """Give the folders' own paths. Raises `InvalidInput` when the spec lacks one."""
        return layout_in(self._folders.path(spec.instance_id), spec)

    def file_owner(self) -> tuple[int, int] | None:
        """None: the agent works as this user."""
        return None

    async def check(self) -> EngineInfo:
        """Look at the kernel and the program. Raises `EngineUnavailable`."""
        return await self._do(look_around, self._binary, self._folders.root)

    async def prepare(self, install_id: str) -> None:  # noqa: ARG002 - a data folder holds one install
        """Make the folder of all instances."""
        await self._do(self._folders.make_root)

    async def open_network(self, install_id: str) -> NetworkFacts | None:  # noqa: ARG002 - part of the contract
        """None: agents are on this machine's own network."""
        return None

    async def closed_network(self, install_id: str) -> NetworkFacts | None:  # noqa: ARG002 - part of the contract
        """None: nothing keeps a process of this user from the network."""
        return None

    async def create(self, spec: InstanceSpec) -> InstanceRef:
        """Make an instance's folder. Raises `InvalidInput` for what only a container can have."""
        refuse_containers_own(spec)
        record = InstanceRecord.of(spec, self.layout(spec))
        folder = await self._do(self._folders.create, spec.instance_id, record)
        self._stir()
        return InstanceRef(instance_id=spec.instance_id, handle=str(folder))

    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:  # noqa: ARG002
        """Start the launcher and wait until the server says where it listens. Instances have no address of their own."""
        async with self._folders.locked(ref.instance_id) as held:
            status = await held.do(spawn, self._binary, secrets, dict(os.environ))
        self._stir()
        while (endpoint := endpoint_of(status)) is None:
            await anyio.sleep(_PORT_POLL_SECONDS)
            status = await self._do(still_starting, held.folder, status)
        return endpoint

    async def deliver(self, ref: InstanceRef, *, secrets: bytes) -> None:
        """Replace the files in the instance's folder of secrets."""
        async with self._folders.locked(ref.instance_id) as held:
            await held.do(replace_secrets, secrets)

    async def update_limits(self, ref: InstanceRef, limits: Limits) -> None:  # noqa: ARG002 - part of the contract
        """Change nothing: none are applied."""
        await self._do(self._folders.existing, ref.instance_id)

    async def stop(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """Ask the launcher to end its instance; end it from here if that takes too long."""
        with contextlib.suppress(InstanceNotFound):
            async with self._folders.locked(ref.instance_id) as held:
                status = await held.do(ask_to_end, grace)
            if status is not None:
                await await_end(status, grace)
            async with self._folders.locked(ref.instance_id) as held:
                await held.do(settle)
        self._stir()

    async def remove(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """Stop an instance and remove its folder, whatever state the folder is in."""
        # What a stop cannot do because of a damaged folder is done below by the mark alone, or raised there.
        with contextlib.suppress(BackendError):
            await self.stop(ref, grace=grace)
        with contextlib.suppress(InstanceNotFound):
            async with self._folders.locked(ref.instance_id) as held:
                await held.do(end_remains)
                await held.do(self._folders.remove)
        self._stir()

    async def pause(self, ref: InstanceRef) -> None:
        """Stop all processes of the instance but its launcher."""
        async with self._folders.locked(ref.instance_id) as held:
            await held.do(pause)
        self._stir()

    async def resume(self, ref: InstanceRef) -> None:
        """Continue what `pause` stopped."""
        async with self._folders.locked(ref.instance_id) as held:
            await held.do(resume)
        self._stir()

    async def inspect(self, ref: InstanceRef) -> Observation:
        """Report one instance; ends what a killed launcher left."""
        return await self._do(lambda: observe(self._folders.existing(ref.instance_id)))

    async def list_instances(self, install_id: str) -> list[Observation]:
        """Report all instances; one whose state cannot be read raises `BackendError`."""
        return await self._do(self._list, install_id)

    def events(self, install_id: str) -> AbstractAsyncContextManager[AsyncIterator[InstanceEvent]]:
        """Watch launchers through the kernel, folders by looking each second."""
        return self._watching(install_id)

    async def logs(
        self, ref: InstanceRef, *, tail: int | None = None, since: datetime | None = None, is_following: bool = False
    ) -> AsyncIterator[LogLine]:
        """Read the launcher's log: the last 5 to 10 MiB. Following, it is looked at ever more seldom while nothing comes."""
        folder = await self._do(self._folders.existing, ref.instance_id)
        reader = LogReader(folder)
        try:
            for line in await self._do(reader.read_kept, tail):
                if since is None or line.at is None or line.at >= since:
                    yield line
            is_live, pause = is_following, _FOLLOW_POLL_SECONDS
            while is_live:
                await anyio.sleep(pause)
                # Asked before reading: what was written until the end is then read.
                is_live = is_running(await self._do(load_status, folder))
                came = await self._do(reader.read_more)
                for line in came:
                    yield line
                pause = _FOLLOW_POLL_SECONDS if came else min(pause * 2, _LONGEST_POLL_SECONDS)
        finally:
            reader.close()

    async def usage(self, ref: InstanceRef) -> ResourceUsage:
        """Add up all processes of the instance, its launcher included."""
        return await self._do(lambda: measure(self._folders.existing(ref.instance_id)))

    async def exec(self, ref: InstanceRef, argv: Sequence[str], *, timeout: timedelta) -> ExecResult:
        """Run a command with the instance's folders and variables. It ends with the instance, and is killed when it takes too long.

        Raises `ConflictError` for a paused instance.
        """
        if not argv or any("\0" in word for word in argv):
            raise InvalidInput("A command needs at least a program's name, and no zero bytes.")
        record, environment = await self._do(self._command_context, ref.instance_id)
        with anyio.fail_after(timeout.total_seconds()):
            return await run_command(argv, cwd=Path(record.layout.workspace), environment=environment)

    def shell_command(self, ref: InstanceRef, argv: Sequence[str]) -> list[str]:
        """Give a call of ``env`` with the instance's folder and variables, and the terminal's own ``TERM``."""
        record = load_record(self._folders.existing(ref.instance_id))
        environment = self._environment(ref.instance_id, record)
        if terminal := os.environ.get("TERM"):
            environment["TERM"] = terminal
        settings = [f"{name}={value}" for name, value in environment.items()]
        return ["env", "-i", "-C", record.layout.workspace, *settings, *argv]

    async def aclose(self) -> None:
        """Nothing is held between calls; instances stay as they are."""

    async def purge(self, install_id: str) -> None:  # noqa: ARG002 - a data folder holds one install
        """Remove the folder of all instances. Raises `BackendError` while there are some."""
        await self._do(self._folders.remove_root)

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _do(self, act: Callable[..., _T], *arguments: object) -> _T:
        """Run blocking code in a thread, its errors translated."""

        def translating() -> _T:
            try:
                with translated(self._folders.root):
                    return act(*arguments)
            except FileNotFoundError as error:
                raise InstanceNotFound(f"Its folder was removed: {error.filename}.") from error

        return await run_sync(translating)

    def _stir(self) -> None:
        for watch in self._watches:
            watch.stir()

    @contextlib.asynccontextmanager
    async def _watching(self, install_id: str) -> AsyncIterator[AsyncIterator[InstanceEvent]]:
        watch = Watch(self._folders, install_id)
        async with watch.standing() as events:
            self._watches.add(watch)
            try:
                yield events
            finally:
                self._watches.discard(watch)

    def _list(self, install_id: str) -> list[Observation]:
        seen = []
        for folder in self._folders.all():
            # Removed while we look: it is gone, and that is no error.
            with contextlib.suppress(InstanceNotFound):
                seen.append(observe(folder))
        return [observation for observation in seen if observation.install_id == install_id]

    def _command_context(self, instance_id: str) -> tuple[InstanceRecord, dict[str, str]]:
        folder = self._folders.existing(instance_id)
        record = load_record(folder)
        if is_frozen(require_live(folder)):
            raise ConflictError(f"Instance {instance_id} is paused.", hint="Resume it first.")
        return record, self._environment(instance_id, record)

    def _environment(self, instance_id: str, record: InstanceRecord) -> dict[str, str]:
        return instance_environment(instance_id, record.layout, wanted=record.environment, manager=os.environ)
