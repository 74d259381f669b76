"""Commands, output and measures of a live instance."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.backends.process.environment import find_memory
from cnap_runner.backends.process.logs import LogReader
from cnap_runner.backends.process_launcher import output
from cnap_runner.errors import InvalidInput
from cnap_runner.model.instance import InstanceRef, InstanceSpec, LogLine

GRACE = timedelta(seconds=5)


async def test_a_command_runs_in_the_workspace(
    backend: ProcessBackend, started: tuple[InstanceRef, str], make_spec: Callable[..., InstanceSpec]
) -> None:
    """It gives both streams in order, and the exit code."""
    ref, _ = started
    result = await backend.exec(ref, ["sh", "-c", "pwd; echo oops >&2; exit 4"], timeout=GRACE)
    assert result.output.decode().splitlines() == [backend.layout(make_spec()).workspace, "oops"]
    assert (result.exit_code, result.is_truncated) == (4, False)


async def test_a_commands_output_has_a_limit(backend: ProcessBackend, started: tuple[InstanceRef, str]) -> None:
    """More than 1 MiB is cut, and the command still ends."""
    ref, _ = started
    result = await backend.exec(ref, ["head", "-c", "3000000", "/dev/zero"], timeout=GRACE)
    assert (len(result.output), result.is_truncated, result.exit_code) == (1 << 20, True, 0)


async def test_a_command_that_takes_too_long_is_ended(
    backend: ProcessBackend, started: tuple[InstanceRef, str], probe: Any
) -> None:
    """The caller gets TimeoutError, and nothing goes on."""
    ref, _ = started
    before = probe.of_instance(ref.instance_id)
    with pytest.raises(TimeoutError):
        await backend.exec(ref, ["sh", "-c", "sleep 1000; true"], timeout=timedelta(milliseconds=200))
    assert probe.of_instance(ref.instance_id) == before


async def test_a_command_that_is_not_there(backend: ProcessBackend, started: tuple[InstanceRef, str]) -> None:
    """It ends as in a shell; an empty one is refused."""
    ref, _ = started
    assert (await backend.exec(ref, ["no-such-program"], timeout=GRACE)).exit_code == 127
    assert (await backend.exec(ref, ["/"], timeout=GRACE)).exit_code == 126
    for bad in ([], ["a\0b"]):
        with pytest.raises(InvalidInput):
            await backend.exec(ref, bad, timeout=GRACE)


async def test_a_command_killed_by_a_signal(backend: ProcessBackend, started: tuple[InstanceRef, str]) -> None:
    """The exit code is that of a shell."""
    ref, _ = started
    assert (await backend.exec(ref, ["sh", "-c", "kill -9 $$"], timeout=GRACE)).exit_code == 137


async def test_the_shell_command_works_as_it_is(
    backend: ProcessBackend, started: tuple[InstanceRef, str], make_spec: Callable[..., InstanceSpec]
) -> None:
    """It can be executed by anybody of this user, and enters the workspace with the instance's variables."""
    ref, _ = started
    argv = backend.shell_command(ref, ["sh", "-c", "pwd; echo $CNAP_RUNNER_INSTANCE"])
    layout = backend.layout(make_spec())
    assert subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split() == [layout.workspace, "i-1"]


async def test_usage_counts_all_processes(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """What the agent started is part of it."""
    ref, endpoint = started
    before = await backend.usage(ref)
    await ask(endpoint, "/daemonise")
    after = await backend.usage(ref)
    assert after.pids == before.pids + 1
    assert after.memory_bytes > before.memory_bytes > 1 << 20
    assert after.cpu_seconds >= before.cpu_seconds > 0
    assert after.memory_limit_bytes is None


async def test_logs_tell_streams_and_times(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """Both streams are kept, and a tail gives the last lines."""
    ref, endpoint = started
    await ask(endpoint, "/say?lines=3")
    await backend.stop(ref, grace=GRACE)
    lines = [line async for line in backend.logs(ref)]
    assert [line.text for line in lines if line.stream == "stdout"][1:] == ["line 0", "line 1", "line 2"]
    assert [line.text for line in lines if line.stream == "stderr"] == ["trouble"]
    assert all(line.at is not None for line in lines)
    assert [line async for line in backend.logs(ref, tail=2)] == lines[-2:]
    assert [line async for line in backend.logs(ref, tail=0)] == []


async def test_following_logs_ends_with_the_instance(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """What comes after the call is given, and the end of the instance is the end of the stream."""
    ref, endpoint = started
    seen: list[str] = []

    async def follow() -> None:
        async for line in backend.logs(ref, tail=0, is_following=True):
            seen.append(line.text)  # noqa: PERF401 - what came before a failure is wanted too

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.sleep(0.3)
            await ask(endpoint, "/say?lines=2")
            await ask(endpoint, "/exit?code=0")
    assert seen.count("line 1") == 1
    assert "trouble" in seen


def test_f21_the_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of much output the last part is kept, and a reader follows over the change without losing a line."""
    monkeypatch.setattr(output, "MAX_LOG_BYTES", 2000)
    log, reader = output.OutputLog(tmp_path), LogReader(tmp_path)
    followed: list[LogLine] = []
    for number in range(200):
        log.write("stdout", f"line {number}".encode())
        followed += reader.read_more()
    reader.close()
    assert [line.text for line in followed] == [f"line {number}" for number in range(200)]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5000
    late = LogReader(tmp_path)
    kept = [line.text for line in late.read_kept(None)]
    late.close()
    assert kept == [f"line {number}" for number in range(200 - len(kept), 200)]
    assert len(kept) > 30


def test_memory_is_only_a_memory_file_system(tmp_path: Path) -> None:
    """A folder on a disk is not taken for one in memory."""
    assert find_memory({"XDG_RUNTIME_DIR": "/proc"}) == find_memory({})
    memory = find_memory({})
    assert memory is None or find_memory({"XDG_RUNTIME_DIR": str(memory)}) == memory
