"""The watch over an install's instances."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from cnap_runner.model.instance import InstanceEvent, InstanceEventKind
from cnap_runner.testing.backend_harness import LIMIT_SECONDS, NO_GRACE, Harness, of_other_install


async def until(events: AsyncIterator[InstanceEvent], kind: InstanceEventKind, instance_id: str) -> InstanceEvent:
    """Read until an event comes."""
    with anyio.fail_after(LIMIT_SECONDS):
        async for event in events:
            if (event.kind, event.instance_id) == (kind, instance_id):
                return event
    raise AssertionError("the watch ended")


async def test_the_connection_is_told_first(harness: Harness) -> None:
    """The first event says that the watch stands; it is about no instance."""
    async with harness.backend.events(harness.install_id) as events:
        first = await anext(events)

    assert first.kind is InstanceEventKind.CONNECTED
    assert first.instance_id is None


async def test_a_life_is_told_in_order(harness: Harness) -> None:
    """Start, death with its exit code, and removal are told, each with who it is about."""
    async with harness.backend.events(harness.install_id) as events:
        started = await harness.start()
        await harness.leave(started, 7)
        instance_id = started.ref.instance_id
        began = await until(events, InstanceEventKind.STARTED, instance_id)
        died = await until(events, InstanceEventKind.DIED, instance_id)
        await harness.backend.remove(started.ref, grace=NO_GRACE)
        removed = await until(events, InstanceEventKind.REMOVED, instance_id)

    assert died.exit_code == 7
    assert {event.agent_id for event in (began, died, removed)} == {"alice"}
    assert began.at <= died.at <= removed.at


async def test_what_happens_before_the_first_read_is_told(harness: Harness) -> None:
    """Inside the context the watch stands, read or not."""
    started = await harness.start()

    async with harness.backend.events(harness.install_id) as events:
        await harness.backend.stop(started.ref, grace=NO_GRACE)
        await until(events, InstanceEventKind.DIED, started.ref.instance_id)


async def test_pause_and_resume_are_told(harness: Harness) -> None:
    """Freezing and thawing are events."""
    if not harness.backend.capabilities.can_pause:
        pytest.skip("cannot pause")
    started = await harness.start()

    async with harness.backend.events(harness.install_id) as events:
        await harness.backend.pause(started.ref)
        await until(events, InstanceEventKind.PAUSED, started.ref.instance_id)
        await harness.backend.resume(started.ref)
        await until(events, InstanceEventKind.RESUMED, started.ref.instance_id)


async def test_other_installs_are_not_told(harness: Harness) -> None:
    """Another install's instances are none of this watch's business."""
    async with harness.backend.events(harness.install_id) as events:
        foreign = await harness.start(of_other_install(harness.spec()))
        await harness.backend.remove(foreign.ref, grace=NO_GRACE)
        own = await harness.start()
        told = []
        with anyio.fail_after(LIMIT_SECONDS):
            async for event in events:
                told.append(event.instance_id)
                if event.instance_id == own.ref.instance_id:
                    break

    assert set(told) == {None, own.ref.instance_id}


async def test_two_watches_see_the_same(harness: Harness) -> None:
    """A watch takes nothing away from another one."""
    async with (
        harness.backend.events(harness.install_id) as first,
        harness.backend.events(harness.install_id) as second,
    ):
        started = await harness.start()
        for events in (first, second):
            await until(events, InstanceEventKind.STARTED, started.ref.instance_id)
