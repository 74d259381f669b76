"""Bounds on what a server may send. An agent can take over the server of its own container; its manager must not run out of memory over it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx

from cnap_runner.errors import ServerRejected

MOST_BYTES: Final = 128 << 20
"""Of one answer, or of one event of a stream. Usual ones have some kilobytes; the largest hold a turn's attachments, 13 MiB each."""
MOST_VALUES: Final = 4_000_000
"""In one answer or event. A value of two characters takes fifty bytes once it is read; an attachment is one value."""
_FEW_BYTES = 1 << 20
"""Too small to hold many."""

_END_OF_EVENT = b"\n\n"


def parse_json(text: str | bytes) -> Any:
    """Read JSON that a server sent; raises `ValueError` for what is none, has too many values, or is nested too deep to be read."""
    if len(text) > _FEW_BYTES:
        data = text.encode() if isinstance(text, str) else text
        if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise ValueError("it has too many values")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


class BoundedTransport(httpx.AsyncBaseTransport):
    """Passes on what another transport gets. Reading more than `MOST_BYTES` of it raises `ServerRejected`, and so does an answer that is packed,
    for that could be any size."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        response = await self._inner.handle_async_request(request)
        if not isinstance(response.stream, httpx.AsyncByteStream):
            return response
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise ServerRejected("The server's answer is packed, which it was not asked to do.")
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        response.stream = _Bounded(response.stream, is_stream=is_stream)
        return response

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._inner.aclose()


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, *, is_stream: bool) -> None:
        self._inner = inner
        self._is_stream = is_stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._inner:
            size += len(piece)
            if self._is_stream and _END_OF_EVENT in piece:
                size = len(piece) - piece.rindex(_END_OF_EVENT)
            if size > MOST_BYTES:
                raise ServerRejected(f"The server sent more than {MOST_BYTES >> 20} MiB at once.")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
