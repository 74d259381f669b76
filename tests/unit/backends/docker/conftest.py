"""An engine that breaks connections when a test wants it to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.abc
import pytest

from cnap_runner.model.instance import LABEL_AGENT, LABEL_INSTANCE


class CuttingEngine:
    """Answers on a socket of its own. Each connection to its events tells those of one list, and is then cut."""

    def __init__(self, socket_path: Path) -> None:
        self.host = f"unix://{socket_path}"
        self.watches: list[list[bytes]] = []
        """What the next connections tell, in order. Without any left the engine refuses."""
        self.since: list[str] = []
        """From when on each connection asked."""

    async def answer(self, stream: anyio.abc.SocketStream) -> None:
        """Serve one connection."""
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                try:
                    request += await stream.receive()
                except anyio.EndOfStream:
                    return  # somebody only looked whether anybody answers
            url = urlsplit(request.split()[1].decode())
            if url.path.endswith("/version"):
                await self._whole(stream, {"ApiVersion": "1.41"})
            elif self.watches:
                self.since.append(parse_qs(url.query)["since"][0])
                await self._broken_off(stream, self.watches.pop(0))
            else:
                await self._whole(stream, {"message": "the engine is starting"}, status="503 Service Unavailable")

    async def _whole(self, stream: anyio.abc.SocketStream, body: object, status: str = "200 OK") -> None:
        content = json.dumps(body).encode()
        await stream.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)

    async def _broken_off(self, stream: anyio.abc.SocketStream, pieces: list[bytes]) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await stream.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def died(instance_id: str, *, at: int) -> bytes:
    """Tell a death as the engine does."""
    attributes = {LABEL_INSTANCE: instance_id, LABEL_AGENT: "alice", "exitCode": "1"}
    return json.dumps({"Action": "die", "Actor": {"Attributes": attributes}, "timeNano": at}).encode() + b"\n"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[CuttingEngine]:
    """An engine whose connections break."""
    path = tmp_path / "engine.sock"
    engine = CuttingEngine(path)
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, engine.answer)
        yield engine
        tasks.cancel_scope.cancel()


@pytest.fixture
def tell_death() -> object:
    """Make the engine's words for a death."""
    return died
