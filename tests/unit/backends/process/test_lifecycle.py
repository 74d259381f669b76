"""Creating, starting, pausing, stopping and finding instances."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.errors import (
    BackendError,
    ConflictError,
    EngineUnavailable,
    InstanceExited,
    InstanceNotFound,
    InstanceStartFailed,
    InvalidInput,
)
from cnap_runner.model.instance import InstanceRef, InstanceSpec, InstanceStatus

GRACE = timedelta(seconds=5)


async def test_a_created_instance_is_found_again_and_not_made_twice(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec]
) -> None:
    """Creating twice with one id gives the one that is there; what was asked for is reported."""
    ref = await backend.create(make_spec())
    assert await backend.create(make_spec()) == ref
    [seen] = await backend.list_instances("install")
    assert (seen.ref, seen.agent_id, seen.generation, seen.spec_hash) == (ref, "alice", 3, "abc")
    assert seen.status is InstanceStatus.CREATED
    assert Path(ref.handle).stat().st_mode & 0o777 == 0o700


async def test_other_installs_are_not_listed(backend: ProcessBackend, make_spec: Callable[..., InstanceSpec]) -> None:
    """Only instances with the own install id are reported."""
    await backend.create(make_spec("i-2", install_id="other"))
    assert await backend.list_instances("install") == []


async def test_a_start_gives_the_endpoint_and_a_second_one_changes_nothing(
    backend: ProcessBackend, started: tuple[InstanceRef, str], archive: bytes, probe: Any
) -> None:
    """Starting what runs returns the same endpoint and leaves the same processes."""
    ref, endpoint = started
    pid = probe.pid_of(Path(ref.handle))
    assert await backend.start(ref, secrets=archive) == endpoint
    assert probe.pid_of(Path(ref.handle)) == pid
    assert (await backend.inspect(ref)).endpoint == endpoint


async def test_two_starts_at_once_start_one_server(
    backend: ProcessBackend,
    make_spec: Callable[..., InstanceSpec],
    archive: bytes,
    stub_binary: Path,
    data_dir: Path,
    probe: Any,
) -> None:
    """Two processes, here two backends, that start one instance at the same time get the same endpoint."""
    other = ProcessBackend(data_dir=data_dir, opencode_binary=stub_binary)
    ref = await backend.create(make_spec())
    endpoints = []

    async def start(one: ProcessBackend) -> None:
        endpoints.append(await one.start(ref, secrets=archive))

    async with anyio.create_task_group() as tasks:
        for one in (backend, other, backend, other):
            tasks.start_soon(start, one)
    assert len(endpoints) == 4
    assert len(set(endpoints)) == 1
    assert len(probe.of_instance(ref.instance_id)) == 2, "a launcher and a server"


async def test_an_ended_instance_starts_again(
    backend: ProcessBackend, started: tuple[InstanceRef, str], archive: bytes
) -> None:
    """A stopped instance reports its end, and starts anew with another endpoint."""
    ref, _ = started
    await backend.stop(ref, grace=GRACE)
    seen = await backend.inspect(ref)
    assert (seen.status, seen.exit_code, seen.endpoint) == (InstanceStatus.EXITED, 143, None)
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert seen.started_at <= seen.finished_at
    assert await backend.start(ref, secrets=archive)
    assert (await backend.inspect(ref)).status is InstanceStatus.RUNNING


async def test_a_server_that_ends_at_once_is_said_with_its_exit_code(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """The caller learns that it ended, not a timeout; its output stays."""
    ref = await backend.create(make_spec(environment={"STUB_EXIT": "7"}))
    with pytest.raises(InstanceExited, match="exit code 7"):
        await backend.start(ref, secrets=archive)
    assert [line.text async for line in backend.logs(ref)] == ["nothing works here"]
    assert (await backend.inspect(ref)).exit_code == 7


async def test_a_missing_program_is_one_clear_error(
    data_dir: Path, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """Without OpenCode neither check nor start pretend anything."""
    backend = ProcessBackend(data_dir=data_dir, opencode_binary=data_dir / "nowhere")
    ref = await backend.create(make_spec())
    with pytest.raises(EngineUnavailable, match="nowhere"):
        await backend.check()
    with pytest.raises(EngineUnavailable, match="nowhere"):
        await backend.start(ref, secrets=archive)
    assert (await backend.inspect(ref)).status is InstanceStatus.CREATED


async def test_a_program_that_cannot_be_executed_ends_at_once(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes, stub_binary: Path
) -> None:
    """What the kernel says about it is in the log."""
    stub_binary.write_bytes(b"\x7fELF of another machine")
    ref = await backend.create(make_spec())
    with pytest.raises(InstanceExited, match="exit code 126"):
        await backend.start(ref, secrets=archive)
    assert "Exec format error" in (await anext(backend.logs(ref))).text


async def test_an_instance_that_is_gone(backend: ProcessBackend, archive: bytes) -> None:
    """Verbs that need it raise InstanceNotFound; ending what is gone is done already."""
    ref = InstanceRef("i-gone", "i-gone")
    for verb in (backend.inspect, backend.pause, backend.resume, backend.usage):
        with pytest.raises(InstanceNotFound):
            await verb(ref)
    with pytest.raises(InstanceNotFound):
        await backend.start(ref, secrets=archive)
    with pytest.raises(InstanceNotFound):
        await backend.exec(ref, ["true"], timeout=GRACE)
    with pytest.raises(InstanceNotFound):
        [line async for line in backend.logs(ref)]
    await backend.stop(ref, grace=GRACE)
    await backend.remove(ref, grace=GRACE)


async def test_pause_freezes_and_resume_thaws(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]]
) -> None:
    """A paused server answers nothing; both verbs may be repeated."""
    ref, endpoint = started
    for _ in range(2):
        await backend.pause(ref)
        seen = await backend.inspect(ref)
        assert (seen.status, seen.endpoint) == (InstanceStatus.PAUSED, endpoint)
    with pytest.raises(ConflictError):
        await backend.exec(ref, ["true"], timeout=GRACE)
    for _ in range(2):
        await backend.resume(ref)
        assert (await backend.inspect(ref)).status is InstanceStatus.RUNNING
    assert await ask(endpoint, "/place")


async def test_resume_does_not_wake_what_the_agent_had_stopped(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], probe: Any
) -> None:
    """A process that stood still before the pause stands still after it."""
    from cnap_runner.backends.process_launcher.proc import read_stat

    ref, endpoint = started
    pid = await ask(endpoint, "/stopped-child")
    await backend.pause(ref)
    await backend.resume(ref)
    stat = read_stat(pid)
    assert stat is not None
    assert stat.is_stopped


async def test_a_paused_instance_stops_politely(backend: ProcessBackend, started: tuple[InstanceRef, str]) -> None:
    """A stop thaws first, so that the server ends by its own means."""
    ref, _ = started
    await backend.pause(ref)
    await backend.stop(ref, grace=GRACE)
    assert (await backend.inspect(ref)).exit_code == 143


async def test_what_does_not_run_cannot_be_paused_or_measured(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec]
) -> None:
    """Created is not live."""
    ref = await backend.create(make_spec())
    for verb in (backend.pause, backend.resume, backend.usage):
        with pytest.raises(InstanceExited):
            await verb(ref)


async def test_remove_takes_the_folder_and_leaves_volumes(
    backend: ProcessBackend, started: tuple[InstanceRef, str], make_spec: Callable[..., InstanceSpec]
) -> None:
    """Volumes are never touched."""
    ref, _ = started
    await backend.remove(ref, grace=GRACE)
    assert await backend.list_instances("install") == []
    assert all(volume.source.is_dir() for volume in make_spec().volumes)
    await backend.purge("install")
    await backend.purge("install")
    assert not Path(ref.handle).parent.exists()


async def test_purge_refuses_while_instances_are_left(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec]
) -> None:
    """Removing the shared folder under an instance would lose it."""
    await backend.create(make_spec())
    with pytest.raises(BackendError):
        await backend.purge("install")


async def test_f04_what_cannot_be_read_is_an_error_and_can_be_removed(
    backend: ProcessBackend, started: tuple[InstanceRef, str], probe: Any
) -> None:
    """A damaged record is not "nothing there"; removing still ends every process."""
    ref, _ = started
    (Path(ref.handle) / "instance.json").write_text("{}")
    with pytest.raises(BackendError, match=r"cannot be read.*i-1"):
        await backend.list_instances("install")
    (Path(ref.handle) / "status.json").write_text("{")
    with pytest.raises(BackendError, match="cannot be read"):
        await backend.stop(ref, grace=GRACE)
    await backend.remove(ref, grace=GRACE)
    assert probe.of_instance(ref.instance_id) == []
    assert await backend.list_instances("install") == []


async def test_ids_and_specs_that_cannot_work_are_refused(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec]
) -> None:
    """No path tricks, and no instance without its folders; nothing is made."""
    from dataclasses import replace

    for bad in ("../escape", "", "a/b", ".hidden"):
        with pytest.raises(InvalidInput):
            await backend.create(make_spec(bad))
    with pytest.raises(InvalidInput, match="workspace"):
        await backend.create(replace(make_spec(), volumes=()))
    assert await backend.list_instances("install") == []


async def test_a_folder_that_cannot_be_made_is_one_clear_error(
    make_spec: Callable[..., InstanceSpec], stub_binary: Path, tmp_path: Path
) -> None:
    """A data folder that is a file is told as such."""
    (tmp_path / "file").write_text("")
    backend = ProcessBackend(data_dir=tmp_path / "file", opencode_binary=stub_binary)
    with pytest.raises(InstanceStartFailed, match="file"):
        await backend.create(make_spec())


async def test_check_tells_version_and_what_is_missing(backend: ProcessBackend, stub_binary: Path) -> None:
    """The version is asked once per program; that nothing is isolated is said."""
    await backend.prepare("install")
    info = await backend.check()
    assert (info.name, info.version) == ("process", "1.18.33")
    assert "isolates nothing" in info.problems[0]
    before = stub_binary.stat()
    stub_binary.write_text("#!/bin/false" + " " * (before.st_size - 12))
    os.utime(stub_binary, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (await backend.check()).version == "1.18.33"
    os.utime(stub_binary)
    with pytest.raises(EngineUnavailable):
        await backend.check()


async def test_a_cancelled_start_is_found_and_ended(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes, probe: Any
) -> None:
    """What a cancelled start leaves is listed, and remove ends it."""
    ref = await backend.create(make_spec(environment={"STUB_SILENT": "1"}))
    with anyio.move_on_after(1):
        await backend.start(ref, secrets=archive)
    [seen] = await backend.list_instances("install")
    assert (seen.status, seen.endpoint) == (InstanceStatus.RUNNING, None)
    await backend.remove(ref, grace=GRACE)
    assert probe.of_instance(ref.instance_id) == []
