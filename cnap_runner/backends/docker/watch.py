"""An install's events as the engine tells them, over one connection that is made again when it breaks."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Self

import anyio
import httpx

from cnap_runner.aio.shield import shielded
from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.reports import EVENT_KINDS, event
from cnap_runner.backends.docker.trouble import translated
from cnap_runner.errors import BackendError
from cnap_runner.model.instance import LABEL_INSTALL, InstanceEvent, InstanceEventKind

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
CLOSE_LIMIT = timedelta(seconds=2)


class EventWatch(AsyncIterator[InstanceEvent]):
    """Yields events without end. It reads only when asked, so it needs no task of its own; a cancelled read loses nothing."""

    def __init__(self, engine: Engine, install_id: str) -> None:
        self._engine = engine
        self._install_id = install_id
        self._since = _nanoseconds(time.time_ns())
        self._connection: AsyncExitStack | None = None
        self._lines: AsyncIterator[str] | None = None
        self._is_news = False
        """The connection was made and not yet told."""

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._disconnect()

    async def __anext__(self) -> InstanceEvent:
        while True:
            if self._lines is None:
                await self._reconnect()
            if self._is_news:
                self._is_news = False
                return InstanceEvent(
                    kind=InstanceEventKind.CONNECTED, instance_id=None, agent_id=None, at=datetime.now(UTC)
                )
            found = await self._next_event()
            if found is not None:
                return found

    async def _next_event(self) -> InstanceEvent | None:
        """Read one message; None when it says nothing new, and when the connection broke."""
        assert self._lines is not None  # noqa: S101 - for the type checker; `__anext__` connected
        is_whole = False
        try:
            line = await anext(self._lines, None)
            is_whole = line is not None
        except httpx.HTTPError:
            return None
        finally:
            if not is_whole:
                # Broken, ended, or cancelled in the middle of a line. The next read begins where this one stood.
                await self._disconnect()
        if not line:
            return None
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            return None  # the connection broke in the middle of a line; the next read finds that out
        self._since = _nanoseconds(int(said["timeNano"]) + 1)
        return event(said)

    async def _reconnect(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._connect()
            except BackendError:
                await anyio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _connect(self) -> None:
        """Connect and remember from when on. The engine answers before it listens to itself, hence ``since``: what happens in
        between is told from its memory, and so is most of what happens between two connections."""
        filters = {
            "type": ["container"],
            "label": [f"{LABEL_INSTALL}={self._install_id}"],
            "event": list(EVENT_KINDS),
        }
        params = {"filters": json.dumps(filters), "since": self._since}
        async with AsyncExitStack() as stack:
            with translated("Watching the engine's events failed"):
                response = await stack.enter_async_context(self._engine.stream("GET", "/events", params=params))
            self._lines = response.aiter_lines()
            self._connection = stack.pop_all()
        self._is_news = True

    async def _disconnect(self) -> None:
        connection, self._connection, self._lines = self._connection, None, None
        if connection is not None:
            async with shielded(CLOSE_LIMIT):
                await connection.aclose()


def watch(engine: Engine, install_id: str) -> AbstractAsyncContextManager[AsyncIterator[InstanceEvent]]:
    """Give the watch over one install's containers, to be entered once."""
    return EventWatch(engine, install_id)


def _nanoseconds(at: int) -> str:
    """Write a time as the engine reads it: seconds, a point, nine digits."""
    return f"{at // 1_000_000_000}.{at % 1_000_000_000:09d}"
