"""What the conformance suite needs of a backend beside the contract: specs, and a hand inside of an instance."""

from __future__ import annotations

import io
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import anyio
import httpx

from cnap_runner.backends.base import Backend
from cnap_runner.model.ids import new_id
from cnap_runner.model.instance import InstanceRef, InstanceSpec, Limits, LogLine, Volume, VolumeRole
from cnap_runner.testing.fake_backend import FakeBackend

PASSWORD = "correct-horse-battery-staple"  # noqa: S105 - of stubs
NO_GRACE = timedelta(0)
GRACE = timedelta(seconds=5)
LIMIT_SECONDS = 30
"""For what must come; only a failure reaches it."""


@dataclass(slots=True)
class Started:
    """A running instance."""

    spec: InstanceSpec
    ref: InstanceRef
    endpoint: str


@dataclass(slots=True)
class Harness(ABC):
    """One backend under test, and all that was made with it."""

    backend: Backend
    install_id: str
    image: str
    folder: Path
    made: list[InstanceRef] = field(default_factory=list)

    @abstractmethod
    async def say(self, started: Started, text: str, *, stream: str = "stdout") -> None:
        """Let an instance print a line."""

    @abstractmethod
    async def leave(self, started: Started, code: int) -> None:
        """Let an instance end by itself. Returns when it was asked to, not when it ended."""

    def spec(self, *, environment: Mapping[str, str] | None = None) -> InstanceSpec:
        """Make a spec of a new instance, with folders that exist and belong to whom they must."""
        instance_id = new_id("i")
        return InstanceSpec(
            install_id=self.install_id,
            agent_id="alice",
            instance_id=instance_id,
            generation=len(self.made) + 1,
            spec_hash="abc",
            image=self.image,
            limits=Limits(memory_bytes=512 << 20, cpus=1.0, pids=100),
            volumes=tuple(Volume(role=role, source=self._folder(instance_id, role)) for role in VolumeRole),
            environment=environment or {},
            labels={"team": "blue"},
        )

    async def create(self, spec: InstanceSpec | None = None) -> InstanceRef:
        """Create an instance that is removed after the test."""
        ref = await self.backend.create(spec or self.spec())
        if ref not in self.made:
            self.made.append(ref)
        return ref

    async def start(self, spec: InstanceSpec | None = None) -> Started:
        """Create and start an instance, and wait until it answers."""
        spec = spec or self.spec()
        ref = await self.create(spec)
        started = Started(spec, ref, await self.backend.start(ref, secrets=secrets()))
        await self.until_serving(started)
        return started

    async def ended(self, *, code: int = 0) -> Started:
        """Give an instance that ended by itself."""
        started = await self.start()
        await self.leave(started, code)
        await self.until_ended(started)
        return started

    async def gone(self) -> InstanceRef:
        """Give the reference of an instance that was removed."""
        ref = await self.create()
        await self.backend.remove(ref, grace=NO_GRACE)
        return ref

    async def until_ended(self, started: Started) -> None:
        """Wait for the end of an instance."""
        with anyio.fail_after(LIMIT_SECONDS):
            while (await self.backend.inspect(started.ref)).is_live:
                await anyio.sleep(0.02)

    @abstractmethod
    async def until_serving(self, started: Started) -> None:
        """Wait until an instance's server answers."""

    async def lines(self, ref: InstanceRef, *, tail: int | None = None) -> list[LogLine]:
        """Read what an instance printed so far."""
        return [line async for line in self.backend.logs(ref, tail=tail)]

    async def clean_up(self) -> None:
        """Remove all instances of the suite, also those that a test lost."""
        for observation in await self.backend.list_instances(self.install_id):
            self.made.append(observation.ref)
        for ref in self.made:
            await self.backend.remove(ref, grace=NO_GRACE)
        self.made.clear()

    def _folder(self, instance_id: str, role: VolumeRole) -> Path:
        folder = self.folder / instance_id / role
        folder.mkdir(parents=True)
        if (owner := self.backend.file_owner()) is not None:
            os.chown(folder, *owner)
        return folder


@dataclass(slots=True)
class StubHarness(Harness):
    """For backends that run programs: a stub for OpenCode does over HTTP what is asked."""

    async def say(self, started: Started, text: str, *, stream: str = "stdout") -> None:
        """Let the stub print."""
        await self._ask(started, "/say", text=text, stream=stream)

    async def leave(self, started: Started, code: int) -> None:
        """Let the stub end itself."""
        await self._ask(started, "/leave", code=str(code))

    async def until_serving(self, started: Started) -> None:
        """Wait for the stub: an engine's port may accept before anything listens behind it."""
        with anyio.fail_after(LIMIT_SECONDS):
            while True:
                try:
                    return await self._ask(started, "/")
                except httpx.TransportError:
                    await anyio.sleep(0.02)

    async def _ask(self, started: Started, path: str, **query: str) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            (await client.get(started.endpoint + path, params=query)).raise_for_status()


@dataclass(slots=True)
class FakeHarness(Harness):
    """For the fake, which has helpers for what happens inside."""

    backend: FakeBackend

    async def say(self, started: Started, text: str, *, stream: str = "stdout") -> None:
        """Emit a line."""
        self.backend.emit(started.ref.instance_id, text, stream=stream)

    async def leave(self, started: Started, code: int) -> None:
        """Kill it."""
        self.backend.kill(started.ref.instance_id, code)

    async def until_serving(self, started: Started) -> None:
        """There is nothing to wait for."""


def secrets(**files: str) -> bytes:
    """Make an instance's secrets: the server's password, which each launcher asks for, and more."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in {"server-password": PASSWORD, **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o400
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def of_other_install(spec: InstanceSpec) -> InstanceSpec:
    """Give the same spec for another install."""
    return replace(spec, install_id=f"{spec.install_id}-other")
