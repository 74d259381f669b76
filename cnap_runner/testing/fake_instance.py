"""One instance of a `FakeBackend`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from cnap_runner.errors import InstanceExited
from cnap_runner.model.instance import (
    InstanceRef,
    InstanceSpec,
    InstanceStatus,
    Layout,
    Limits,
    LogLine,
    Observation,
    ResourceUsage,
)
from cnap_runner.testing.fake_programs import FakeFiles

LAYOUT = Layout(
    workspace="/workspace",
    state="/agent/state",
    home="/agent/home",
    settings="/agent/settings",
    secrets="/run/secrets",
)
USED_BYTES = 50 << 20
"""Memory that each live instance seems to use."""


@dataclass(slots=True)
class FakeInstance:
    """All there is of one instance."""

    spec: InstanceSpec
    ref: InstanceRef
    files: FakeFiles
    limits: Limits
    status: InstanceStatus = InstanceStatus.CREATED
    address: str | None = None
    endpoint: str | None = None
    exit_code: int | None = None
    is_oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output: list[LogLine] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)
    """Set, and replaced, at each line of output and each change of status."""

    @property
    def is_live(self) -> bool:
        """Whether it runs, paused or not."""
        return self.status in {InstanceStatus.RUNNING, InstanceStatus.PAUSED}

    def begin(self, *, address: str) -> None:
        """Run, as new."""
        self.status, self.started_at, self.finished_at = InstanceStatus.RUNNING, datetime.now(UTC), None
        self.exit_code, self.is_oom_killed = None, False
        self.address = address

    def end(self, exit_code: int) -> None:
        """Run no longer; what was in memory is gone."""
        self.status, self.endpoint, self.address = InstanceStatus.EXITED, None, None
        self.exit_code, self.finished_at = exit_code, datetime.now(UTC)
        self.files.secrets = {}

    def emit(self, text: str, *, stream: str) -> None:
        """Print one line."""
        self.output.append(LogLine(stream=stream, text=text, at=datetime.now(UTC)))
        self.tell()

    def tell(self) -> None:
        """Wake all who follow."""
        self.changed.set()
        self.changed = anyio.Event()

    async def lines(
        self, *, tail: int | None, since: datetime | None, is_following: bool
    ) -> AsyncGenerator[LogLine, None]:
        """Yield what was emitted; where that is followed, until the instance ends."""
        position = 0 if tail is None else max(0, len(self.output) - tail)
        while True:
            is_live, changed = self.is_live and is_following, self.changed
            while position < len(self.output):
                position += 1
                line = self.output[position - 1]
                if since is None or line.at is None or line.at >= since:
                    yield line
            if not is_live:
                return
            await changed.wait()

    def usage(self) -> ResourceUsage:
        """Give made-up figures."""
        return ResourceUsage(
            memory_bytes=USED_BYTES, memory_limit_bytes=self.limits.memory_bytes, cpu_seconds=1.0, pids=2
        )

    def observation(self) -> Observation:
        """Report it."""
        return Observation(
            ref=self.ref,
            install_id=self.spec.install_id,
            agent_id=self.spec.agent_id,
            generation=self.spec.generation,
            spec_hash=self.spec.spec_hash,
            status=self.status,
            address=self.address if self.is_live else None,
            endpoint=self.endpoint,
            exit_code=self.exit_code,
            is_oom_killed=self.is_oom_killed,
            started_at=self.started_at,
            finished_at=self.finished_at,
        )


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Unpack secrets; an archive that is none is refused, as the launcher refuses it."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                if content is not None:
                    found[entry.name.removeprefix("./")] = content.read()
    except tarfile.TarError as error:
        raise InstanceExited("The instance ended with exit code 78: its secrets are no tar archive.") from error
    return found
