"""Instances outlive managers, and any process takes them over."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.model.instance import InstanceRef, InstanceSpec, InstanceStatus

GRACE = timedelta(seconds=5)

_MANAGER = """
import sys
from pathlib import Path
import anyio
from cnap_runner.backends.process import ProcessBackend
from cnap_runner.model.instance import InstanceRef

async def main():
    data_dir, binary, instance_id = sys.argv[1:]
    backend = ProcessBackend(data_dir=Path(data_dir), opencode_binary=Path(binary))
    archive = Path(data_dir, "archive").read_bytes()
    print(await backend.start(InstanceRef(instance_id, ""), secrets=archive), flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
async def orphan(
    backend: ProcessBackend, data_dir: Path, stub_binary: Path, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> tuple[InstanceRef, str]:
    """An instance whose manager, a real process, was killed."""
    ref = await backend.create(make_spec())
    (data_dir / "archive").write_bytes(archive)
    argv = [sys.executable, "-c", _MANAGER, str(data_dir), str(stub_binary), ref.instance_id]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as manager:
        assert manager.stdout is not None
        endpoint = manager.stdout.readline().strip()
        manager.send_signal(signal.SIGKILL)
    return ref, endpoint


async def test_an_instance_survives_its_killed_manager(
    backend: ProcessBackend, orphan: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """It goes on serving, and another process reports and asks it."""
    ref, endpoint = orphan
    assert await ask(endpoint, "/place")
    seen = await backend.inspect(ref)
    assert (seen.status, seen.endpoint) == (InstanceStatus.RUNNING, endpoint)


async def test_an_adopted_instance_can_be_driven(
    backend: ProcessBackend, orphan: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], archive: bytes
) -> None:
    """Every verb works from the process that adopted it."""
    ref, endpoint = orphan
    assert await backend.start(ref, secrets=archive) == endpoint
    assert (await backend.exec(ref, ["echo", "here"], timeout=GRACE)).output == b"here\n"
    assert (await backend.usage(ref)).pids >= 2
    await backend.pause(ref)
    await backend.resume(ref)
    await backend.stop(ref, grace=GRACE)
    seen = await backend.inspect(ref)
    assert (seen.status, seen.exit_code) == (InstanceStatus.EXITED, 143)


async def test_the_server_holds_nothing_of_the_manager(
    orphan: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """No descriptor of the manager is inherited: three streams, its socket, and the listing itself."""
    _, endpoint = orphan
    assert len((await ask(endpoint, "/place"))["files"]) <= 7


async def test_a_launcher_without_its_whole_archive_does_nothing(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], data_dir: Path, stub_binary: Path, archive: bytes
) -> None:
    """A manager killed while it hands over the secrets leaves no server and no secrets."""
    from cnap_runner.backends import process_launcher

    ref = await backend.create(make_spec())
    launcher = Path(process_launcher.__file__).with_name("__main__.py")
    argv = [sys.executable, "-I", "-S", str(launcher), ref.handle, "--binary", str(stub_binary)]
    argv += ["--workspace", str(data_dir), "--archive-bytes", str(len(archive))]
    assert subprocess.run(argv, input=archive[:512], check=False).returncode == 78
    assert (await backend.inspect(ref)).status is InstanceStatus.CREATED
    assert sorted(path.name for path in Path(ref.handle).iterdir()) == ["instance.json"]
