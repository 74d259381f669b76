"""A server that an agent took over sends without end."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest

from cnap_runner.errors import ServerRejected
from cnap_runner.opencode.bounds import MOST_BYTES, BoundedTransport
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.events import parse_event

MIB = b"x" * (1 << 20)


class Endless(httpx.AsyncByteStream):
    """Counts what was taken of it."""

    def __init__(self, piece: bytes, *, most: int = 1 << 20) -> None:
        self.piece, self.most, self.taken = piece, most, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.taken < self.most:
            self.taken += 1
            yield self.piece


def client(stream: Endless | bytes, **headers: str) -> httpx.AsyncClient:
    def answer(_: httpx.Request) -> httpx.Response:
        if isinstance(stream, bytes):
            return httpx.Response(200, headers=headers, content=stream)
        return httpx.Response(200, headers=headers, stream=stream)

    return httpx.AsyncClient(transport=BoundedTransport(httpx.MockTransport(answer)), base_url="http://server")


async def test_an_answer_without_end_is_given_up() -> None:
    """Nothing beyond the bound is taken."""
    stream = Endless(MIB)
    with pytest.raises(ServerRejected, match="more than 128 MiB"):
        await client(stream).get("/")
    assert stream.taken == (MOST_BYTES >> 20) + 1


async def test_a_packed_answer_is_refused() -> None:
    """A few kilobytes could become gigabytes."""
    stream = Endless(gzip.compress(MIB), most=1)
    with pytest.raises(ServerRejected, match="packed"):
        await client(stream, **{"Content-Encoding": "gzip"}).get("/")
    assert stream.taken == 0


@pytest.mark.parametrize(("piece", "is_bounded"), [(MIB, True), (MIB + b"\n\n", False)])
async def test_a_stream_may_go_on_for_ever_and_an_event_may_not(piece: bytes, *, is_bounded: bool) -> None:
    """Each event has the bound for itself."""
    stream = Endless(piece, most=150)
    async with client(stream, **{"Content-Type": "text/event-stream"}).stream("GET", "/event") as response:
        try:
            async for _ in response.aiter_raw():
                pass
        except ServerRejected:
            assert is_bounded
    assert (stream.taken < stream.most) == is_bounded


@pytest.mark.parametrize("hostile", [b"[" * 200_000, b"[" + b"[]," * (3 << 20) + b"[]]"], ids=["deep", "many"])
async def test_json_that_would_take_all_memory_is_refused(monkeypatch: pytest.MonkeyPatch, hostile: bytes) -> None:
    """Nested without end, or of millions of values: in answers, in errors and in events alike; nothing but the one call fails."""
    with pytest.raises(ServerRejected, match="no JSON"):
        parse_event(hostile.decode())
    for status in (200, 500):
        answer = httpx.MockTransport(lambda _, status=status: httpx.Response(status, content=hostile))
        async with OpenCodeClient("http://server", "password") as server:
            monkeypatch.setattr(server, "_transport", BoundedTransport(answer))
            with pytest.raises(ServerRejected):
                await server.is_busy("ses_1")
