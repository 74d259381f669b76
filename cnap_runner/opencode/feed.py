"""One server's event stream, kept open over turns and shared by them: connected again by itself, with every break told.

A turn listens by a `Feed` of its own. Nothing a listener does holds up another one or the stream: what comes is put down for each, and
one that is too far behind is told that the stream broke, which for it is the same, and reads by request what it missed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio

from cnap_runner.errors import ServerError, ServerUnreachable
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.events import (
    MessageUpdated,
    OtherEvent,
    PartDelta,
    PartUpdated,
    ServerEvent,
    parse_event,
)

ROOM = 2048
"""Items that may wait for one slow listener before it counts as too far behind; most are some hundred bytes."""

TASK_NAME = "cnap-runner-events"


@dataclass(frozen=True, slots=True)
class Opened:
    """The subscription stands: whatever happens from here on will be told, until `Lost`."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream ended or could not be opened, and is tried again after a pause; or this listener missed a piece of it."""

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
    """What the stream tells one listener, item by item. Its first item is `Opened` or `Lost`."""

    def __init__(self, shared: SharedFeed, session_id: str) -> None:
        self._shared = shared
        self._session_id = session_id
        self._items: deque[FeedItem] = deque()
        self._has_come = asyncio.Event()
        self._is_behind = False
        self._failure: Exception | None = None

    async def next(self, *, timeout: float | None = None) -> FeedItem | None:
        """Wait for the next item, for so many seconds; None when there was none."""
        if not self._items and not self._is_behind and self._failure is None:
            self._has_come.clear()
            with anyio.move_on_after(timeout):
                await self._has_come.wait()
        if self._items:
            return self._items.popleft()
        if self._failure is not None:
            raise self._failure
        return self._caught_up() if self._is_behind else None

    def put(self, item: FeedItem) -> None:
        """Put an item down for the listener, unless it is another session's or there is no room left."""
        if self._is_behind or not self._is_wanted(item):
            return
        if len(self._items) >= ROOM:
            self._is_behind = True
            return
        self._items.append(item)
        self._has_come.set()

    def fail(self, failure: Exception) -> None:
        """Let the listener raise this once it took what came before."""
        self._failure = failure
        self._has_come.set()

    def _caught_up(self) -> FeedItem:
        """All is taken that was put down before there was no room: the stream breaks here, and goes on at once if it stands."""
        self._is_behind = False
        if self._shared.is_open:
            self._items.append(Opened())
        return Lost(None)

    def _is_wanted(self, item: FeedItem) -> bool:
        """Subagents have sessions of their own: of those all is told but their messages."""
        if isinstance(item, MessageUpdated | PartUpdated | PartDelta):
            return item.session_id == self._session_id
        return not isinstance(item, OtherEvent)


class SharedFeed:
    """The stream of one server. Opened by the first listener, then kept; one that breaks is opened anew while somebody listens.

    Kept, because opening one for each turn costs time, and because the server never forgets the listeners of streams that were
    closed (seen: `MaxListenersExceededWarning` after ten).
    """

    def __init__(self, client: OpenCodeClient, *, silence: timedelta, backoff: Backoff | None = None) -> None:
        """A stream without any sign for ``silence`` counts as broken; the server sends one every 10 s."""
        self._client = client
        self._silence = silence
        self._backoff = backoff or Backoff()
        self._feeds: list[Feed] = []
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        """Tries in a row without any sign of the server."""
        self._attempt = anyio.CancelScope()
        self._is_closed = False
        self.is_open = False
        """Whether the stream stands, as far as is known: its last sign is younger than ``silence``."""

    @asynccontextmanager
    async def listen(self, session_id: str) -> AsyncIterator[Feed]:
        """Hear what happens in a session, from here on, for as long as the context lasts. What was on its way may come too."""
        feed = Feed(self, session_id)
        self._feeds.append(feed)
        try:
            self._begin(feed)
            yield feed
        finally:
            self._feeds.remove(feed)

    def cancel(self) -> None:
        """Begin to close the stream, for good. Whoever listens is told that it is lost."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Close the stream, for good. Idempotent."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})

    def _begin(self, feed: Feed) -> None:
        """See to it that the listener hears how the stream stands."""
        if self._is_closed:
            feed.put(Lost(ServerUnreachable("The stream of events was closed.")))
        elif self.is_open:
            feed.put(Opened())
        elif self._task is None or self._task.done():
            # Not of the listener's task group: it outlives the turn that opened it. `aclose` ends it.
            self._task = asyncio.create_task(self._run(), name=TASK_NAME)
        else:
            # A server that boots may have taken the request of the try under way and will never answer it (seen).
            self._attempt.cancel()

    async def _run(self) -> None:
        try:
            await self._keep_open()
        except asyncio.CancelledError:
            self._tell(Lost(None))
            raise
        except Exception as failure:  # noqa: BLE001 - raised where it is listened
            for feed in self._feeds:
                feed.fail(failure)

    async def _keep_open(self) -> None:
        pause = 0.0
        while True:
            with anyio.CancelScope() as self._attempt:
                await anyio.sleep(pause)
                lost = await self._stream()
            if self._attempt.cancelled_caught:
                pause = 0.0
                continue
            self._tell(lost)
            if not self._feeds:
                return
            self._failures += 1
            pause = self._backoff.pause(self._failures)

    async def _stream(self) -> Lost:
        """Open the stream and pass on what it tells, until it ends."""
        try:
            async with self._client.events(silence=self._silence) as texts:
                self.is_open = True
                self._tell(Opened())
                async for text in texts:
                    self._failures = 0
                    # Much is said between two turns, and in those of others: what nobody hears is not even parsed.
                    if self._feeds:
                        self._tell(parse_event(text))
        except ServerError as error:
            return Lost(error)
        finally:
            self.is_open = False
        return Lost(None)

    def _tell(self, item: FeedItem) -> None:
        for feed in self._feeds:
            feed.put(item)
