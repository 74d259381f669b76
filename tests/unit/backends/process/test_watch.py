"""The watch tells what happens, in order, from any process."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.model.instance import InstanceEvent, InstanceEventKind, InstanceRef, InstanceSpec

GRACE = timedelta(seconds=5)
K = InstanceEventKind


async def _take(events: AsyncIterator[InstanceEvent], count: int) -> list[InstanceEvent]:
    with anyio.fail_after(20):
        return [await anext(events) for _ in range(count)]


async def test_a_whole_life_is_told_in_order(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """Nothing is missed, however late the consumer listens."""
    async with backend.events("install") as events:
        assert [event.kind for event in await _take(events, 1)] == [K.CONNECTED]
        ref = await backend.create(make_spec())
        await backend.start(ref, secrets=archive)
        assert [event.kind for event in await _take(events, 1)] == [K.STARTED]
        await backend.pause(ref)
        await backend.resume(ref)
        assert [event.kind for event in await _take(events, 2)] == [K.PAUSED, K.RESUMED]
        await backend.stop(ref, grace=GRACE)
        await backend.remove(ref, grace=GRACE)
        seen = await _take(events, 2)
    assert [event.kind for event in seen] == [K.DIED, K.REMOVED]
    assert {(event.instance_id, event.agent_id) for event in seen} == {("i-1", "alice")}


async def test_a_life_between_two_looks_is_told(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """An instance that starts and ends while nobody looks still started and died."""
    ref = await backend.create(make_spec())
    async with backend.events("install") as events:
        await backend.start(ref, secrets=archive)
        await backend.stop(ref, grace=GRACE)
        seen = await _take(events, 3)
    assert [event.kind for event in seen] == [K.CONNECTED, K.STARTED, K.DIED]
    assert seen[-1].exit_code == 143


async def test_a_death_is_told_with_its_exit_code_before_the_next_look(
    backend: ProcessBackend,
    started: tuple[InstanceRef, str],
    ask: Callable[[str, str], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel wakes the watch: no look by the clock is needed."""
    monkeypatch.setattr("cnap_runner.backends.process.watch.LOOK_EVERY_SECONDS", 1000)
    _, endpoint = started
    async with backend.events("install") as events:
        await _take(events, 1)
        await ask(endpoint, "/exit?code=9")
        [event] = await _take(events, 1)
    assert (event.kind, event.exit_code) == (K.DIED, 9)


async def test_a_killed_launcher_is_a_death(
    backend: ProcessBackend, started: tuple[InstanceRef, str], probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed launcher cannot say, the kernel does."""
    monkeypatch.setattr("cnap_runner.backends.process.watch.LOOK_EVERY_SECONDS", 1000)
    ref, _ = started
    async with backend.events("install") as events:
        await _take(events, 1)
        os.kill(probe.pid_of(Path(ref.handle)), signal.SIGKILL)
        [event] = await _take(events, 1)
    assert (event.kind, event.exit_code) == (K.DIED, 137)


async def test_what_another_process_does_is_told(
    backend: ProcessBackend, data_dir: Path, stub_binary: Path, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """Another backend shares only the folder, as another process would."""
    other = ProcessBackend(data_dir=data_dir, opencode_binary=stub_binary)
    async with backend.events("install") as events:
        await _take(events, 1)
        ref = await other.create(make_spec())
        await other.start(ref, secrets=archive)
        assert [event.kind for event in await _take(events, 1)] == [K.STARTED]
        await other.remove(ref, grace=GRACE)
        assert [event.kind for event in await _take(events, 2)] == [K.DIED, K.REMOVED]


async def test_f05_after_an_error_the_watch_connects_again(
    backend: ProcessBackend, started: tuple[InstanceRef, str], data_dir: Path
) -> None:
    """What cannot be read ends nothing: no death is told, and the consumer is asked to list anew."""
    ref, _ = started
    record = Path(ref.handle) / "instance.json"
    text = record.read_text()
    async with backend.events("install") as events:
        await _take(events, 1)
        record.write_text("damaged")
        async with anyio.create_task_group() as tasks:

            async def mend() -> None:
                await anyio.sleep(1.5)
                record.write_text(text)

            tasks.start_soon(mend)
            assert [event.kind for event in await _take(events, 1)] == [K.CONNECTED]
        await backend.stop(ref, grace=GRACE)
        assert [event.kind for event in await _take(events, 1)] == [K.DIED]


async def test_other_installs_are_not_told(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], archive: bytes
) -> None:
    """Only events of the own install come."""
    async with backend.events("install") as events:
        await _take(events, 1)
        foreign = await backend.create(make_spec("i-2", install_id="other"))
        await backend.start(foreign, secrets=archive)
        own = await backend.create(make_spec("i-3"))
        await backend.start(own, secrets=archive)
        [event] = await _take(events, 1)
    assert event.instance_id == "i-3"
