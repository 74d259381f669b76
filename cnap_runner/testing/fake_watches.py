"""The watches of a `FakeBackend`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from cnap_runner.model.instance import InstanceEvent, InstanceEventKind, InstanceSpec


class FakeWatches:
    """Who watches which install."""

    def __init__(self) -> None:
        self._watches: dict[MemoryObjectSendStream[InstanceEvent], str] = {}

    @asynccontextmanager
    async def open(self, install_id: str) -> AsyncIterator[AsyncIterator[InstanceEvent]]:
        """Watch an install's instances; the first event says that it is connected."""
        send, receive = anyio.create_memory_object_stream[InstanceEvent](float("inf"))
        send.send_nowait(_connected())
        self._watches[send] = install_id
        try:
            with send, receive:
                yield receive
        finally:
            del self._watches[send]

    def tell(self, spec: InstanceSpec, kind: InstanceEventKind, *, exit_code: int | None = None) -> None:
        """Tell all who watch the instance's install what happened to it."""
        event = InstanceEvent(
            kind, instance_id=spec.instance_id, agent_id=spec.agent_id, at=datetime.now(UTC), exit_code=exit_code
        )
        for watch, install_id in self._watches.items():
            if install_id == spec.install_id:
                watch.send_nowait(event)

    def reconnect(self) -> None:
        """Tell all that they were connected anew."""
        for watch in self._watches:
            watch.send_nowait(_connected())


def _connected() -> InstanceEvent:
    return InstanceEvent(InstanceEventKind.CONNECTED, instance_id=None, agent_id=None, at=datetime.now(UTC))
