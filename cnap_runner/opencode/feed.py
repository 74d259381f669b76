"""The event stream, kept open: connected again by itself, with every break told."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from cnap_runner.errors import ServerError
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.events import ServerEvent

_ROOM = 256
"""Events that may wait for a slow listener before the stream itself has to wait."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The subscription stands: whatever happens from here on will be told, until `Lost`."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream ended or could not be opened; it is tried again after a pause."""

    reason: ServerError | None


FeedItem = ServerEvent | Opened | Lost


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between two tries to connect: doubling, each shortened by up to half at random."""

    first: timedelta = timedelta(milliseconds=100)
    longest: timedelta = timedelta(seconds=5)

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        whole = min(self.longest, self.first * (1 << min(failures - 1, 20))).total_seconds()
        return whole * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing


class Feed:
    """What an open stream tells, item by item."""

    def __init__(self, items: MemoryObjectReceiveStream[FeedItem]) -> None:
        self._items = items

    async def next(self, *, timeout: float | None = None) -> FeedItem | None:
        """Wait for the next item, for so many seconds; None when there was none."""
        with contextlib.suppress(anyio.WouldBlock):
            return self._items.receive_nowait()
        with anyio.move_on_after(timeout):
            return await self._items.receive()
        return None


@asynccontextmanager
async def open_feed(client: OpenCodeClient, *, silence: timedelta, backoff: Backoff) -> AsyncIterator[Feed]:
    """Keep a stream of events open for as long as the context lasts. Its first item is `Opened` or `Lost`."""
    sender, receiver = anyio.create_memory_object_stream[FeedItem](_ROOM)
    failure: Exception | None = None
    # Closed after the task has ended: until then it may still pass something on.
    with sender, receiver:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_pump, client, sender, silence, backoff)
            try:
                yield Feed(receiver)
            except Exception as error:  # noqa: BLE001 - raised again below: a task group would wrap it
                failure = error
            finally:
                tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _pump(
    client: OpenCodeClient, items: MemoryObjectSendStream[FeedItem], silence: timedelta, backoff: Backoff
) -> None:
    failures = 0
    while True:
        reason: ServerError | None = None
        try:
            async with client.events(silence=silence) as events:
                await items.send(Opened())
                async for event in events:
                    failures = 0
                    await _pass_on(items, event)
        except ServerError as error:
            reason = error
        failures += 1
        await items.send(Lost(reason))
        await anyio.sleep(backoff.pause(failures))


async def _pass_on(items: MemoryObjectSendStream[FeedItem], event: ServerEvent) -> None:
    """Hand on an event; without giving up the processor while there is room, since events come in bundles."""
    try:
        items.send_nowait(event)
    except anyio.WouldBlock:
        await items.send(event)
