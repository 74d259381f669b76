"""The contract between the runner and the place where instances live.

A few verbs and their promises. Nothing here assumes a local disk, a published port or a container: an instance is something
that runs the OpenCode server for one agent, keeps its folders, and can be found again by any process.

Promises that hold for every verb:

- It never blocks the event loop.
- Errors are those of `cnap_runner.errors`; the engine's own exceptions stay inside, chained as the cause.
- `EngineUnavailable` and `EnginePermissionDenied` may come from any verb. An error is never "nothing is there".
- Cancelling a verb leaves either its effect or none, or something that `list_instances` still reports and `remove` ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

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

OnAddress = Callable[[str], Awaitable[None]]
"""Gets an instance's own network address before anything of the agent runs."""


class Backend(ABC):
    """Creates, drives and reports instances. One object serves one manager; it is used from one event loop."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this backend can do, as far as it is known without asking the engine."""

    @abstractmethod
    def layout(self, spec: InstanceSpec) -> Layout:
        """Tell where an instance of this spec will see its folders. Pure: asks nobody, creates nothing."""

    @abstractmethod
    def file_owner(self) -> tuple[int, int] | None:
        """Tell uid and gid, on the manager's side, that an instance's files must belong to; None: as they are made."""

    @abstractmethod
    async def check(self) -> EngineInfo:
        """Ask the engine who it is. Cheap; raises when it cannot be used at all, lists lesser trouble in ``problems``."""

    @abstractmethod
    async def prepare(self, install_id: str) -> None:
        """Make what all instances of an install share (networks, folders). Idempotent; called under the install's lock."""

    @abstractmethod
    async def open_network(self, install_id: str) -> NetworkFacts | None:
        """Tell the facts of the install's `Network.OPEN`, making it where there is none; None: instances have no network of their own.

        Idempotent; what it makes, `purge` removes.
        """

    @abstractmethod
    async def closed_network(self, install_id: str) -> NetworkFacts | None:
        """Tell the facts of the install's `Network.CLOSED`, making it where there is none; None: `Capabilities.closes_network` is false.

        Made at the first call or the first `create` that needs it, not before: networks of a host are few. Idempotent; what it
        makes, `purge` removes.
        """

    async def opencode_version(self, image: str) -> str | None:  # noqa: ARG002 - for those that know
        """Tell the version of OpenCode that an image says it has; None where it says nothing, or is not there."""
        return None

    @abstractmethod
    async def create(self, spec: InstanceSpec) -> InstanceRef:
        """Create an instance without starting it.

        Asked twice with one `instance_id`, it returns the one that is there. Raises `ImageNotFound`, `InsufficientResources`,
        `InvalidInput` for limits, hardware, a runtime or a network that the host or the backend does not have, otherwise
        `InstanceStartFailed`; then nothing is left behind.
        """

    @abstractmethod
    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:
        """Start a created or exited instance and return its endpoint, the base URL of its server.

        ``secrets`` is a tar archive; the launcher inside unpacks it into `Layout.secrets` before it starts the server. It
        leaves no trace outside the instance's memory. That the server answers is not promised: see `runner.readiness`.
        ``on_address`` is awaited with the instance's own address, where it has one, after its launcher exists and before that
        gets the secrets: nothing of the agent's runs until it returns. What it raises passes through, and the instance ends.
        Raises `InstanceNotFound`, `InstanceExited` where it ended at once, otherwise `InstanceStartFailed`. On an instance
        that runs it changes nothing, awaits nothing, and returns the endpoint.
        """

    @abstractmethod
    async def deliver(self, ref: InstanceRef, *, secrets: bytes) -> None:
        """Replace the whole set of files in `Layout.secrets` of a running instance by those of an archive as `start` takes it.

        A file that stays is there at each moment, with its old or its new content, never a part of it; afterwards those that
        are not in the archive are gone. Nobody is told: a server reads them when it is asked to. On an error the old set may be
        replaced in part; the same call again completes it. It leaves no trace outside the instance's memory. Only for an instance
        whose server has answered: before, its launcher may still be at the first set. Raises `InvalidInput`
        for what is no such archive, `InstanceNotFound`, `InstanceExited`, `ConflictError` for a paused one.
        """

    @abstractmethod
    async def update_limits(self, ref: InstanceRef, limits: Limits) -> None:
        """Change the limits of an instance in place, up or down; its processes go on. Idempotent; an ended one has them at its next start.

        All or nothing. A backend that keeps no limits (see `Capabilities`) takes them without effect, as `create` does. Raises `InvalidInput`
        for limits the host does not have, `InsufficientResources` where more memory is in use than the new limit,
        `InstanceNotFound`, otherwise `BackendError`.
        """

    @abstractmethod
    async def stop(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End all processes of an instance, politely first; its remains and logs stay. One that is ended or gone counts as stopped."""

    @abstractmethod
    async def remove(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End and remove one instance, politely first. One already gone counts as removed. Volumes are never touched."""

    @abstractmethod
    async def pause(self, ref: InstanceRef) -> None:
        """Freeze a running instance. Paused already: nothing happens. Raises `InstanceNotFound`, `InstanceExited`."""

    @abstractmethod
    async def resume(self, ref: InstanceRef) -> None:
        """Thaw a paused instance. Running already: nothing happens. Raises `InstanceNotFound`, `InstanceExited`."""

    @abstractmethod
    async def inspect(self, ref: InstanceRef) -> Observation:
        """Report one instance; raises `InstanceNotFound`."""

    @abstractmethod
    async def list_instances(self, install_id: str) -> list[Observation]:
        """Report all instances of an install, ended ones too, and no others'. Costs little, however many there are.

        What an engine tells of single instances only may be missing, and `inspect` has it: when they started and ended, and whether it
        was for want of memory.
        """

    @abstractmethod
    def events(self, install_id: str) -> AbstractAsyncContextManager[AsyncIterator[InstanceEvent]]:
        """Watch an install's instances.

        Inside the context the watch stands: nothing that happens from then on is missed while it is connected. It connects
        again by itself; each (re)connection is told by a ``connected`` event, after which the consumer should list anew.
        """

    @abstractmethod
    def logs(
        self, ref: InstanceRef, *, tail: int | None = None, since: datetime | None = None, is_following: bool = False
    ) -> AsyncIterator[LogLine]:
        """Yield an instance's output, oldest first: the last ``tail`` lines (None: all), of those the ones not older than ``since``, then,
        following, what comes until it ends. Raises `InstanceNotFound`."""

    @abstractmethod
    async def usage(self, ref: InstanceRef) -> ResourceUsage:
        """Measure what a live instance uses now; raises `InstanceNotFound`, `InstanceExited`."""

    @abstractmethod
    async def exec(self, ref: InstanceRef, argv: Sequence[str], *, timeout: timedelta) -> ExecResult:
        """Run one command inside a live instance, as the agent's user, in the workspace.

        Its output is kept up to 1 MiB. Raises `InvalidInput` for an empty ``argv``, `InstanceNotFound`, `InstanceExited`,
        `ConflictError` for a paused one, and `TimeoutError` when it takes longer; the command may then go on inside.
        """

    @abstractmethod
    def shell_command(self, ref: InstanceRef, argv: Sequence[str]) -> list[str]:
        """Give the local command that runs ``argv`` interactively inside an instance, with the caller's terminal."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of connections and threads. Instances stay as they are. Idempotent."""

    @abstractmethod
    async def purge(self, install_id: str) -> None:
        """Remove what `prepare` made for an install. Its instances must be removed before. Idempotent."""
