"""``python -m benchmarks.tap UPSTREAM PORT_FILE``: a server between OpenCode and its client that stamps fragments of text.

It runs in a process of its own. Each fragment gets the moment at which it leaves here, by the clock that all processes of one
machine share; everything else passes unchanged. So the time measured is that of the client alone: neither the model's nor
OpenCode's is in it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import httpx

from cnap_runner.testing.fake_opencode.http import HttpServer, NoAnswer, Request, Response

STAMPED = re.compile(r"@(\d+):[^@]*")
_PASSED = ("authorization", "content-type")
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def latencies(heard: Iterable[tuple[str, int]]) -> list[float]:
    """Tell, for each stamped fragment, how long it took until the last of it was heard, in milliseconds.

    ``heard`` are pieces of text with the moment they were heard; they need not be cut where the fragments were.
    """
    text, known_until, moments = "", [], []
    for piece, moment in heard:
        text += piece
        known_until.append(len(text))
        moments.append(moment)
    taken, at = [], 0
    for fragment in STAMPED.finditer(text):
        while known_until[at] < fragment.end():
            at += 1
        taken.append((moments[at] - int(fragment[1])) / 1e6)
    return taken


class Tap:
    """Passes requests on to one server, and its events back."""

    def __init__(self, upstream: httpx.AsyncClient) -> None:
        self._upstream = upstream

    async def handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        """Answer one request as the server does; one that the server breaks off is broken off here too."""
        try:
            return await self._pass_on(request, writer)
        except httpx.TransportError:
            raise NoAnswer from None

    async def _pass_on(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        if request.path == "/event":
            await self._stream(headers, writer)
            return None
        answer = await self._upstream.request(
            request.method, request.path, params=request.query, headers=headers, content=request.body
        )
        return Response(answer.status_code, answer.content, answer.headers.get("content-type", "text/plain"))

    async def _stream(self, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        async with self._upstream.stream("GET", "/event", headers=headers, timeout=None) as events:
            writer.write(_STREAM_HEAD)
            async for line in events.aiter_lines():
                if writer.is_closing():
                    return
                if line.startswith("data:"):
                    writer.write(_stamped(line))
                    await writer.drain()


def _stamped(line: str) -> bytes:
    """Make one event of one line of data, stamped where it is a fragment. The stamp is the last thing before it leaves."""
    if '"message.part.delta"' not in line:
        return f"{line}\n\n".encode()
    event = json.loads(line[5:])
    properties = event["properties"]
    properties["delta"] = f"@{time.monotonic_ns()}:{properties['delta']}"
    return f"data: {json.dumps(event)}\n\n".encode()


async def _serve(upstream: str, port_file: Path) -> None:
    async with httpx.AsyncClient(base_url=upstream, timeout=60, verify=False) as client:
        server = HttpServer(Tap(client).handle)
        await server.start()
        draft = port_file.with_suffix(".new")
        draft.write_text(str(server.port), encoding="utf-8")
        draft.replace(port_file)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
