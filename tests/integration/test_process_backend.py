"""The process backend with the real OpenCode."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.backends.process_launcher.proc import read_stat
from cnap_runner.model.instance import InstanceRef, InstanceSpec, InstanceStatus, Limits, Volume, VolumeRole

pytestmark = pytest.mark.opencode

GRACE = timedelta(seconds=10)
PASSWORD = "for-this-test-only"


@pytest.fixture
async def backend(tmp_path: Path, opencode_binary: Path) -> AsyncIterator[ProcessBackend]:
    """A backend that leaves nothing running."""
    backend = ProcessBackend(data_dir=tmp_path, opencode_binary=opencode_binary)
    yield backend
    for seen in await backend.list_instances("install"):
        await backend.remove(seen.ref, grace=GRACE)


def _spec(data_dir: Path, agent_id: str) -> InstanceSpec:
    volumes = tuple(Volume(role=role, source=data_dir / agent_id / role.value) for role in VolumeRole)
    for volume in volumes:
        volume.source.mkdir(parents=True)
    return InstanceSpec(
        install_id="install",
        agent_id=agent_id,
        instance_id=f"i-{agent_id}",
        generation=1,
        spec_hash="abc",
        image="none",
        limits=Limits(memory_bytes=1 << 31, cpus=2.0, pids=1024),
        volumes=volumes,
        environment={"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
    )


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("server-password")
        entry.size = len(PASSWORD)
        tar.addfile(entry, io.BytesIO(PASSWORD.encode()))
    return buffer.getvalue()


def _client(endpoint: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=endpoint, auth=("opencode", PASSWORD), timeout=30)


async def _session_with_daemon(client: httpx.AsyncClient, workspace: Path) -> tuple[str, int]:
    """Let OpenCode itself run a command that daemonises; give the session and the daemon's pid."""
    session = (await client.post("/session", json={})).raise_for_status().json()["id"]
    script = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &\necho $! >daemon.pid\n"
    (workspace / "start").write_text(script)
    answer = await client.post(f"/session/{session}/shell", json={"agent": "build", "command": "sh ./start"})
    answer.raise_for_status()
    return session, int((workspace / "daemon.pid").read_text())


async def test_two_real_servers_side_by_side(backend: ProcessBackend, tmp_path: Path) -> None:
    """Each has its own port and asks for its password; what one started dies with it, and its sessions outlive it."""
    refs: dict[str, InstanceRef] = {}
    endpoints: dict[str, str] = {}

    async def boot(agent_id: str) -> None:
        refs[agent_id] = await backend.create(_spec(tmp_path, agent_id))
        endpoints[agent_id] = await backend.start(refs[agent_id], secrets=_archive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(boot, "alice")
        tasks.start_soon(boot, "bob")
    assert endpoints["alice"] != endpoints["bob"]

    alice = refs["alice"]
    async with _client(endpoints["alice"]) as client:
        assert (await client.get("/session", auth=("opencode", "wrong"))).status_code == 401
        session, daemon = await _session_with_daemon(client, tmp_path / "alice" / "workspace")
        assert read_stat(daemon) is not None
        await backend.pause(alice)
        assert (await backend.inspect(alice)).status is InstanceStatus.PAUSED
        await backend.resume(alice)
        assert [found["id"] for found in (await client.get("/session")).json()] == [session]
    await backend.stop(alice, grace=GRACE)
    stat = read_stat(daemon)
    assert stat is None or not stat.is_alive

    assert (await backend.inspect(refs["bob"])).status is InstanceStatus.RUNNING
    endpoint = await backend.start(alice, secrets=_archive())
    async with _client(endpoint) as client:
        assert [found["id"] for found in (await client.get("/session")).json()] == [session]


async def test_the_real_version_is_told(backend: ProcessBackend) -> None:
    """The pinned version is what check reports."""
    assert (await backend.check()).version == "1.18.33"
