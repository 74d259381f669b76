"""A proxy on loopback, and servers that it may or may not reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketAttribute

from cnap_runner.egress import log
from cnap_runner.egress.proxy import Proxy, ProxyLimits
from cnap_runner.egress.reaching import Outside
from cnap_runner.egress.rulebook import Entry, Rulebook
from cnap_runner.egress.rules import parse_rule
from cnap_runner.egress.upstream import Upstream

HOST = "127.0.0.1"


@dataclass
class Server:
    """A server on loopback that keeps what it was sent."""

    port: int = 0
    received: list[bytes] = field(default_factory=list)
    """One text per connection, so far."""


@dataclass
class Bench:
    """A proxy that runs, and what it reads."""

    proxy: Proxy
    book: Rulebook
    port: int
    names: dict[str, Sequence[str]]
    """What its resolver answers."""
    looked_up: list[str]
    """What it was asked."""

    def allow(self, *rules: str, endpoints: Sequence[str] = ()) -> None:
        """Let the tests' own address reach something."""
        parsed = [parse_rule(rule) for rule in rules] + [parse_rule(rule, is_endpoint=True) for rule in endpoints]
        self.book.put(HOST, Entry("i-1", "alice", tuple(parsed)))

    async def connect(self) -> anyio.abc.SocketStream:
        """Connect to the proxy."""
        return await anyio.connect_tcp(HOST, self.port)

    async def ask(self, request: bytes) -> bytes:
        """Send a request, and give all that comes back until the end."""
        async with await self.connect() as stream:
            await stream.send(request)
            return await self.read_all(stream)

    @staticmethod
    async def read_all(stream: anyio.abc.SocketStream) -> bytes:
        """Give all that comes until the end."""
        answer = b""
        with anyio.fail_after(10):
            async for chunk in stream:
                answer += chunk
        return answer

    @staticmethod
    async def read_until(stream: anyio.abc.SocketStream, end: bytes) -> bytes:
        """Give what comes, until a text is among it."""
        answer = b""
        with anyio.fail_after(10):
            while end not in answer:
                answer += await stream.receive()
        return answer


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[Server]:
    """A server that answers each first message with a text, and then echoes until its client has ended."""
    server = Server()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            number = len(server.received)
            server.received.append(b"")
            async for chunk in stream:
                server.received[number] += chunk
                await stream.send(answer or chunk)
                if b"connection: close" in server.received[number].lower():
                    return
            await stream.send(b"bye")

    async with await anyio.create_tcp_listener(local_host=HOST) as listener, anyio.create_task_group() as tasks:
        server.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no database
        tasks.start_soon(listener.serve, serve)
        yield server
        tasks.cancel_scope.cancel()


@pytest.fixture
def limits() -> ProxyLimits:
    return ProxyLimits()


@pytest.fixture
def upstream() -> Upstream | None:
    return None


@pytest.fixture
async def bench(tmp_path: Path, limits: ProxyLimits, upstream: Upstream | None) -> AsyncIterator[Bench]:
    names: dict[str, Sequence[str]] = {}
    book = Rulebook(tmp_path / "egress")

    looked_up: list[str] = []

    async def resolve(host: str, _: int, __: str) -> Sequence[str]:
        looked_up.append(host)
        if host not in names:
            raise OSError("no such name")
        return names[host]

    proxy = Proxy(book, outside=Outside(HOST, resolve, upstream), log=log.logger(), limits=limits)
    async with await anyio.create_tcp_listener(local_host=HOST) as listener, anyio.create_task_group() as tasks:
        bench = Bench(proxy, book, listener.extra(SocketAttribute.local_port), names, looked_up)  # noqa: S610 - no database
        tasks.start_soon(listener.serve, proxy.handle)
        yield bench
        tasks.cancel_scope.cancel()


@pytest.fixture
async def echo() -> AsyncIterator[Server]:
    async with serving(b"") as server:
        yield server


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") as server:
        yield server
