"""Each failing backend fails as its name says, and only so."""

from __future__ import annotations

import anyio
import pytest

from cnap_runner.errors import EngineUnavailable, InstanceExited, InstanceStartFailed
from cnap_runner.model.instance import InstanceEventKind, InstanceSpec, InstanceStatus, Limits
from cnap_runner.testing import DyingBackend, FakeBackend, FlakyBackend, HangingBackend, RefusingBackend
from cnap_runner.testing.backend_harness import secrets

SPEC = InstanceSpec(
    install_id="inst",
    agent_id="alice",
    instance_id="i-1",
    generation=1,
    spec_hash="abc",
    image="any",
    limits=Limits(memory_bytes=1 << 30, cpus=1, pids=10),
    volumes=(),
)


async def test_refusing_backend_creates_nothing() -> None:
    """Creation fails and leaves nothing."""
    backend = RefusingBackend()

    with pytest.raises(InstanceStartFailed):
        await backend.create(SPEC)
    assert await backend.list_instances("inst") == []


async def test_hanging_backend_never_starts() -> None:
    """Start waits until it is cancelled; the instance stays created."""
    backend = HangingBackend()
    ref = await backend.create(SPEC)

    with anyio.move_on_after(0.01) as scope:
        await backend.start(ref, secrets=secrets())

    assert scope.cancelled_caught
    assert (await backend.inspect(ref)).status is InstanceStatus.CREATED


async def test_dying_backend_ends_what_it_starts() -> None:
    """Start says that the instance ended at once."""
    backend = DyingBackend()
    ref = await backend.create(SPEC)

    with pytest.raises(InstanceExited):
        await backend.start(ref, secrets=secrets())
    assert (await backend.inspect(ref)).exit_code == 1


async def test_flaky_backend_recovers() -> None:
    """The first calls fail, whatever they are; then all works."""
    backend = FlakyBackend(failures=2)

    with pytest.raises(EngineUnavailable):
        await backend.check()
    with pytest.raises(EngineUnavailable):
        await backend.create(SPEC)
    ref = await backend.create(SPEC)
    assert await backend.start(ref, secrets=secrets())


async def test_served_endpoint_is_the_instances_own() -> None:
    """What the hook gives is the endpoint; it is asked at each start."""
    served: list[str] = []

    async def serve(spec: InstanceSpec) -> str:
        served.append(spec.instance_id)
        return f"http://127.0.0.1:{len(served)}"

    backend = FakeBackend(serve=serve)
    ref = await backend.create(SPEC)
    first = await backend.start(ref, secrets=secrets())
    backend.kill("i-1")
    second = await backend.start(ref, secrets=secrets())

    assert (first, second) == ("http://127.0.0.1:1", "http://127.0.0.1:2")


async def test_a_kill_for_want_of_memory_is_told_as_such() -> None:
    """The kernel's verdict comes before the death, and inspect repeats it."""
    backend = FakeBackend()
    ref = await backend.create(SPEC)
    await backend.start(ref, secrets=secrets())

    async with backend.events("inst") as events:
        backend.kill("i-1", is_oom=True)
        backend.reconnect()
        kinds = [(await anext(events)).kind for _ in range(4)]

    assert kinds == [
        InstanceEventKind.CONNECTED,
        InstanceEventKind.OOM,
        InstanceEventKind.DIED,
        InstanceEventKind.CONNECTED,
    ]
    assert (await backend.inspect(ref)).is_oom_killed
