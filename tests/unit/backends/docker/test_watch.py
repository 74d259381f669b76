"""The watch, on connections that break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from cnap_runner.backends.docker import DockerBackend
from cnap_runner.errors import BackendError
from cnap_runner.model.instance import InstanceEventKind

SECOND = 1_000_000_000
Death = Callable[..., bytes]


@pytest.fixture
async def backend(engine: Any) -> AsyncIterator[DockerBackend]:
    """A backend on the breaking engine."""
    backend = DockerBackend(docker_host=engine.host)
    yield backend
    await backend.aclose()


async def test_a_broken_watch_is_made_again_where_it_stood(
    engine: Any, backend: DockerBackend, tell_death: Death
) -> None:
    """Each new connection is told, asks for what came after the last event, and nothing is told twice."""
    engine.watches = [[tell_death("i-1", at=5 * SECOND)], [tell_death("i-2", at=6 * SECOND + 7)], []]
    told = []

    with anyio.fail_after(20):
        async with backend.events("inst") as events:
            async for event in events:
                told.append((event.kind, event.instance_id))
                if len(told) == 5:
                    break

    connected, death = (InstanceEventKind.CONNECTED, None), InstanceEventKind.DIED
    assert told == [connected, (death, "i-1"), connected, (death, "i-2"), connected]
    assert engine.since[1:] == ["5.000000001", "6.000000008"]


async def test_half_an_event_is_none(engine: Any, backend: DockerBackend, tell_death: Death) -> None:
    """A connection that breaks in the middle of a message loses it to the next connection, not to nobody."""
    whole = tell_death("i-1", at=5 * SECOND)
    engine.watches = [[whole[:40]], [whole]]

    with anyio.fail_after(20):
        async with backend.events("inst") as events:
            kinds = [(await anext(events)).kind for _ in range(3)]

    assert kinds == [InstanceEventKind.CONNECTED, InstanceEventKind.CONNECTED, InstanceEventKind.DIED]


async def test_an_engine_that_is_away_is_waited_for(engine: Any, backend: DockerBackend, tell_death: Death) -> None:
    """While the engine refuses, the watch tries again and says nothing."""
    engine.watches = [[]]

    with anyio.fail_after(20):
        async with backend.events("inst") as events:
            await anext(events)
            with anyio.move_on_after(0.3) as waiting:
                await anext(events)
            engine.watches = [[tell_death("i-1", at=SECOND)]]
            kinds = [(await anext(events)).kind for _ in range(2)]

    assert waiting.cancelled_caught
    assert kinds == [InstanceEventKind.CONNECTED, InstanceEventKind.DIED]


async def test_a_watch_that_cannot_begin_says_so(engine: Any, backend: DockerBackend) -> None:
    """Nobody believes to be watching who is not."""
    with pytest.raises(BackendError, match="the engine is starting"):
        async with backend.events("inst"):
            pass
