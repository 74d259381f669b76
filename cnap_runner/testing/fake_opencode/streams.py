"""The fake's open event streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from cnap_runner.testing.fake_opencode.sessions import new_id

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass(eq=False, slots=True)
class _Stream:
    writer: asyncio.StreamWriter
    is_mute: bool = False
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, data: bytes) -> None:
        """Write, unless the listener has left."""
        if not self.writer.is_closing():
            self.writer.write(data)


class Streams:
    """All who listen to ``GET /event``."""

    def __init__(self) -> None:
        self._streams: set[_Stream] = set()
        self.opened = 0
        """How many were opened so far."""
        self.stay_mute = False
        """Whether streams say nothing but that they stand, from the moment they are opened."""

    async def serve(self, writer: asyncio.StreamWriter) -> None:
        """Feed one listener until it leaves or is dropped."""
        stream = _Stream(writer)
        writer.write(_HEAD)
        stream.send(_encoded("server.connected", {}))
        stream.is_mute = self.stay_mute
        await writer.drain()
        self.opened += 1
        self._streams.add(stream)
        try:
            await stream.dropped.wait()
        finally:
            self._streams.discard(stream)

    def publish(self, kind: str, properties: dict[str, Any]) -> None:
        """Tell every listener that is not mute."""
        data = _encoded(kind, properties)
        for stream in self._streams:
            if not stream.is_mute:
                stream.send(data)

    def heartbeat(self) -> None:
        """Tell every listener, mute ones too, that the server lives."""
        for stream in self._streams:
            stream.send(_encoded("server.heartbeat", {}))

    def write_raw(self, data: bytes) -> None:
        """Write anything to every listener."""
        for stream in self._streams:
            stream.send(data)

    def mute(self) -> None:
        """Say nothing any more to those who listen now."""
        for stream in self._streams:
            stream.is_mute = True

    async def drop(self) -> None:
        """Break all streams, after what was said before went out."""
        dropped = list(self._streams)
        self._streams.clear()
        for stream in dropped:
            with contextlib.suppress(ConnectionError):
                await stream.writer.drain()
            stream.dropped.set()
            stream.writer.close()


def _encoded(kind: str, properties: dict[str, Any]) -> bytes:
    event = {"id": new_id("evt"), "type": kind, "properties": properties}
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
