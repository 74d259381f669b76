"""Whatever an agent starts dies with its instance, and nothing else does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.backends.process_launcher.proc import ProcessIdentity, identify
from cnap_runner.model.instance import InstanceRef, InstanceSpec, InstanceStatus

GRACE = timedelta(seconds=5)


@pytest.mark.parametrize("how", ["/daemonise", "/daemonise?clear"])
async def test_f28_what_daemonises_dies_at_a_stop(
    backend: ProcessBackend,
    started: tuple[InstanceRef, str],
    ask: Callable[[str, str], Awaitable[Any]],
    probe: Any,
    how: str,
) -> None:
    """Leaving group, session, parent and environment is no way out: the launcher is the reaper of all its descendants."""
    ref, endpoint = started
    pid = await ask(endpoint, how)
    assert probe.is_alive(pid)
    await backend.stop(ref, grace=GRACE)
    assert not probe.is_alive(pid)
    assert probe.of_instance(ref.instance_id) == []


async def test_f28_what_daemonises_dies_when_the_server_ends_by_itself(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], probe: Any
) -> None:
    """The launcher ends the rest, and only then says that the instance ended, with the server's exit code."""
    ref, endpoint = started
    pid = await ask(endpoint, "/daemonise?clear")
    await ask(endpoint, "/exit?code=3")
    launcher = probe.pid_of(Path(ref.handle))
    await probe.until(lambda: not probe.is_alive(launcher))
    assert not probe.is_alive(pid)
    seen = await backend.inspect(ref)
    assert (seen.status, seen.exit_code) == (InstanceStatus.EXITED, 3)


async def test_f28_what_daemonises_is_frozen_by_a_pause(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """A pause reaches all descendants."""
    from cnap_runner.backends.process_launcher.proc import read_stat

    ref, endpoint = started
    pid = await ask(endpoint, "/daemonise?clear")
    await backend.pause(ref)
    stat = read_stat(pid)
    assert stat is not None
    assert stat.is_stopped


async def test_a_command_beside_the_server_dies_with_the_instance(
    backend: ProcessBackend, started: tuple[InstanceRef, str], probe: Any
) -> None:
    """What exec left running carries the mark and is ended by the launcher."""
    ref, _ = started
    result = await backend.exec(ref, ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"], timeout=GRACE)
    pid = int(result.output)
    assert probe.is_alive(pid)
    await backend.stop(ref, grace=GRACE)
    assert not probe.is_alive(pid)


async def test_a_server_that_does_not_listen_is_killed_after_the_grace(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """The exit code says that it was killed."""
    ref = await backend.create(make_spec(environment={"STUB_DEAF": "1"}))
    await backend.start(ref, secrets=archive)
    await backend.stop(ref, grace=timedelta(milliseconds=200))
    assert (await backend.inspect(ref)).exit_code == 137


async def test_killing_the_launcher_leaves_nothing(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], probe: Any
) -> None:
    """The kernel kills the server; whoever lists next ends what daemonised, removes the secrets and completes the status."""
    ref, endpoint = started
    folder = Path(ref.handle)
    daemon, server = await ask(endpoint, "/daemonise"), probe.pid_of(folder, "server")
    secrets = (folder / "secrets").readlink()
    os.kill(probe.pid_of(folder), signal.SIGKILL)
    await probe.until(lambda: not probe.is_alive(server))
    [seen] = await backend.list_instances("install")
    assert (seen.status, seen.exit_code) == (InstanceStatus.EXITED, 137)
    assert not probe.is_alive(daemon)
    assert not secrets.exists()
    assert not (folder / "secrets").is_symlink()


async def test_stop_ends_what_a_killed_launcher_left(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], probe: Any
) -> None:
    """A stop right after the kill does the same without a listing."""
    ref, endpoint = started
    daemon = await ask(endpoint, "/daemonise")
    os.kill(probe.pid_of(Path(ref.handle)), signal.SIGKILL)
    await backend.stop(ref, grace=GRACE)
    assert not probe.is_alive(daemon)
    assert probe.of_instance(ref.instance_id) == []


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that belongs to nobody here."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def _claim(folder: Path, identity: ProcessIdentity) -> None:
    """Make an instance's folder say that this process is its launcher and its server."""
    status = json.loads((folder / "status.json").read_text())
    status["launcher"] = status["server"] = asdict(identity)
    (folder / "status.json").write_text(json.dumps({**status, "finished_at": None, "exit_code": None}))


async def test_f26_a_pid_given_to_a_stranger_is_not_mistaken(
    backend: ProcessBackend, started: tuple[InstanceRef, str], stranger: subprocess.Popen[bytes]
) -> None:
    """A process that has the launcher's pid, but not its start time, makes no instance live and is never signalled."""
    ref, _ = started
    await backend.stop(ref, grace=GRACE)
    identity = identify(stranger.pid)
    assert identity is not None
    _claim(Path(ref.handle), replace(identity, start_time=identity.start_time - 1))
    assert (await backend.inspect(ref)).status is InstanceStatus.EXITED
    await backend.stop(ref, grace=timedelta(0))
    await backend.remove(ref, grace=timedelta(0))
    assert stranger.poll() is None


async def test_f26_a_pid_of_another_boot_is_not_mistaken(
    backend: ProcessBackend, started: tuple[InstanceRef, str], stranger: subprocess.Popen[bytes]
) -> None:
    """After a reboot even pid and start time may fit a stranger; the exit code is then unknown."""
    ref, _ = started
    await backend.stop(ref, grace=GRACE)
    identity = identify(stranger.pid)
    assert identity is not None
    _claim(Path(ref.handle), replace(identity, boot_id="another"))
    seen = await backend.inspect(ref)
    assert (seen.status, seen.exit_code) == (InstanceStatus.EXITED, None)
    await backend.stop(ref, grace=timedelta(0))
    assert stranger.poll() is None
