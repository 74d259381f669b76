"""A proxy before an engine's socket, which plays an engine that is newer, older, deaf, mute or unlucky. The engine itself goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_REQUEST = re.compile(rb"^(?P<verb>[A-Z]+) (?:/v(?P<version>\d+\.\d+))?(?P<path>/\S*) HTTP/1\.1\r\n")
_HEAD_LIMIT = 64 << 10


@dataclass(slots=True)
class Trouble:
    """What happens to requests whose path contains a text, until it is taken back."""

    path: str
    kind: str
    """``refuse``: answered 500 without reaching the engine. ``lose``: done by the engine, and the connection breaks before its answer.
    ``mute``: the head of the answer comes, then nothing more, and the connection stays open."""
    times: int
    """How many requests it happens to."""


class EngineProxy:
    """A socket that forwards to an engine, with troubles to order. An async context manager; lives on the loop that entered it.

    ``versions`` makes it an engine that speaks these versions of the API, from the lowest to the highest: others are refused as that
    engine would, and what comes through is asked of the real engine in a version it has.
    """

    def __init__(self, engine: Path, socket: Path, *, versions: tuple[str, str] | None = None) -> None:
        self._engine = engine
        self.socket = socket
        self._versions = versions
        self._troubles: list[Trouble] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.seen: list[str] = []
        """Verb and path of each request, without the version."""

    @property
    def host(self) -> str:
        """Its address, as ``DOCKER_HOST`` has it."""
        return f"unix://{self.socket}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.socket, limit=_HEAD_LIMIT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101 - it was entered
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()

    # --- troubles -----------------------------------------------------------------------------------------------------

    def trouble(self, path: str, kind: str, *, times: int = 1) -> None:
        """Let this happen to the next requests of that path."""
        self._troubles.append(Trouble(path, kind, times))

    def mend(self) -> None:
        """Take all troubles back. Connections that are mute stay so."""
        self._troubles.clear()

    def cut(self) -> None:
        """Break all open connections."""
        for writer in list(self._open):
            writer.transport.abort()

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler is one
        self._tasks.add(task)
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._forward(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.close()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward the one request of a connection: each is told to be the last, so that no other hides behind it."""
        asked = _REQUEST.match(head)
        if asked is None:
            return
        path = asked["path"].decode()
        self.seen.append(f"{asked['verb'].decode()} {path}")
        if self._versions is not None and asked["version"] and not self._speaks(asked["version"].decode()):
            low, high = self._versions
            said = f"client version {asked['version'].decode()} is not between {low} and {high}"
            writer.write(_refusal(400, said))
            return
        trouble = self._next_trouble(path)
        if trouble == "refuse":
            writer.write(_refusal(500, "the engine has a bad day"))
            return
        engine_reader, engine_writer = await asyncio.open_unix_connection(str(self._engine))
        self._open.add(engine_writer)
        try:
            engine_writer.write(_as_last(_unversioned(head) if self._versions is not None else head))
            await self._carry(path, trouble, (reader, writer), (engine_reader, engine_writer))
        finally:
            self._open.discard(engine_writer)
            engine_writer.close()

    async def _carry(
        self,
        path: str,
        trouble: str | None,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        engine: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        upward = asyncio.create_task(_pipe(client[0], engine[1]))
        try:
            if trouble is not None:
                head = await engine[0].readuntil(b"\r\n\r\n")  # it has begun to answer, so it is done
                if trouble == "mute":
                    client[1].write(head)
                    await upward  # until the client gives up
            elif path == "/version" and self._versions is not None:
                client[1].write(self._version_told(await engine[0].read()))
                await client[1].drain()
            else:
                await _pipe(engine[0], client[1])
        finally:
            upward.cancel()
            await asyncio.gather(upward, return_exceptions=True)

    def _next_trouble(self, path: str) -> str | None:
        for trouble in self._troubles:
            if trouble.times > 0 and trouble.path in path:
                trouble.times -= 1
                return trouble.kind
        return None

    def _speaks(self, version: str) -> bool:
        assert self._versions is not None  # noqa: S101 - the caller looked
        low, high = (_number(one) for one in self._versions)
        return low <= _number(version) <= high

    def _version_told(self, answer: bytes) -> bytes:
        """Give the engine's answer to ``GET /version`` with other versions in it."""
        assert self._versions is not None  # noqa: S101 - the caller looked
        body = answer[answer.index(b"{") : answer.rindex(b"}") + 1]
        said = json.loads(body) | {"MinAPIVersion": self._versions[0], "ApiVersion": self._versions[1]}
        return _answer("200 OK", json.dumps(said))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until one side ends, and tell the other side of the end."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(_HEAD_LIMIT):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _as_last(head: bytes) -> bytes:
    """Tell the engine that no request follows on this connection, unless the connection is to become something else."""
    if re.search(rb"\r\nupgrade:", head, re.IGNORECASE):
        return head
    kept = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
    return kept.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def _unversioned(head: bytes) -> bytes:
    """Leave the version of the API to the real engine, which takes its newest."""
    return _REQUEST.sub(rb"\g<verb> \g<path> HTTP/1.1\r\n", head, count=1)


def _refusal(status: int, message: str) -> bytes:
    return _answer(f"{status} Refused", json.dumps({"message": message}))


def _answer(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
