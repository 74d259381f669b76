"""A process backend whose OpenCode is a small stub."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.backends.process_launcher.proc import read_stat
from cnap_runner.backends.process_launcher.tree import instance_processes
from cnap_runner.model.instance import InstanceRef, InstanceSpec, Limits, Volume, VolumeRole

PASSWORD = "correct-horse-battery-staple"
KEY = "sk-not-to-be-seen"


class Ask(Protocol):
    """Asks a stub for something."""

    async def __call__(self, endpoint: str, path: str) -> Any: ...


@pytest.fixture
def stub_binary(tmp_path: Path) -> Path:
    """An executable that stands for OpenCode."""
    source = Path(__file__).with_name("stub_opencode.py").read_text()
    binary = tmp_path / "bin" / "opencode"
    binary.parent.mkdir()
    binary.write_text(f"#!{sys.executable} -IS\n{source}")
    binary.chmod(0o755)
    return binary


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def backend(data_dir: Path, stub_binary: Path) -> AsyncIterator[ProcessBackend]:
    """A backend that leaves nothing running."""
    backend = ProcessBackend(data_dir=data_dir, opencode_binary=stub_binary)
    yield backend
    for folder in (data_dir / "processes").glob("i-*"):
        await backend.remove(InstanceRef(folder.name, str(folder)), grace=timedelta(0))
    await backend.aclose()


@pytest.fixture
async def started(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> tuple[InstanceRef, str]:
    """A started instance and its endpoint."""
    ref = await backend.create(make_spec())
    return ref, await backend.start(ref, secrets=archive)


@pytest.fixture
def make_spec(data_dir: Path) -> Callable[..., InstanceSpec]:
    """Make specs whose folders exist."""

    def make(
        instance_id: str = "i-1", *, install_id: str = "install", environment: Mapping[str, str] | None = None
    ) -> InstanceSpec:
        volumes = tuple(Volume(role=role, source=data_dir / "agents" / role.value) for role in VolumeRole)
        for volume in volumes:
            volume.source.mkdir(parents=True, exist_ok=True)
        return InstanceSpec(
            install_id=install_id,
            agent_id="alice",
            instance_id=instance_id,
            generation=3,
            spec_hash="abc",
            image="none",
            limits=Limits(memory_bytes=1 << 30, cpus=1.0, pids=100),
            volumes=volumes,
            environment=environment or {},
            labels={"team": "blue"},
        )

    return make


@pytest.fixture(scope="session")
def archive() -> bytes:
    """The secrets of an instance."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in {"server-password": PASSWORD, "env-KEY": KEY}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Ask a stub for something, in a thread."""

    async def asking(endpoint: str, path: str) -> Any:
        def call() -> Any:
            with urllib.request.urlopen(endpoint + path, timeout=10) as answer:  # noqa: S310 - our own stub
                return json.load(answer)

        return await anyio.to_thread.run_sync(call)

    return asking


class Probe:
    """Looks at processes from outside."""

    @staticmethod
    def is_alive(pid: int) -> bool:
        """Whether a process of this pid can still do something."""
        stat = read_stat(pid)
        return stat is not None and stat.is_alive

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Wait for what must come, with a limit that only a failure reaches."""
        with anyio.fail_after(20):
            while not await anyio.to_thread.run_sync(condition):
                await anyio.sleep(0.02)

    @staticmethod
    def pid_of(folder: Path, name: str = "launcher") -> int:
        """Give the pid of an instance's launcher or server."""
        return int(json.loads((folder / "status.json").read_text())[name]["pid"])

    @staticmethod
    def environment_of(pid: int) -> dict[str, str]:
        """Read the variables a process was started with."""
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)

    @staticmethod
    def of_instance(instance_id: str) -> list[int]:
        """Find what carries an instance's mark."""
        return [process.pid for process in instance_processes(instance_id, None)]


@pytest.fixture(scope="session")
def probe() -> Probe:
    """Look at processes from outside."""
    return Probe()
