"""Just enough of an HTTP server to have every connection in hand: answers can be lost, streams cut, requests swallowed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed; an empty object where there is none."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"


class NoAnswer(Exception):
    """Raised by a handler: the connection is closed without an answer."""


def answer(value: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(status, json.dumps(value).encode())


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[Response | None]]
"""Returns the response, or None where it wrote to the connection itself, which is closed then."""


@dataclass(eq=False, slots=True)
class HttpServer:
    """Listens on a free port of 127.0.0.1; started again, on the same."""

    handle: Handler
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Break every connection and stop listening. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio starts this as a task
        self._serving.add(task)
        self._open.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, NoAnswer, asyncio.CancelledError):
                while (response := await self.handle(await _read(reader), writer)) is not None:
                    writer.write(_rendered(response))
                    await writer.drain()
        finally:
            self._open.discard(writer)
            self._serving.discard(task)
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return Request(method, unquote(parts.path), query, headers, body)


def _rendered(response: Response) -> bytes:
    head = f"HTTP/1.1 {response.status} -\r\nContent-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n\r\n"
    return head.encode() + response.body
