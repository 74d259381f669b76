"""The one way out of an install's closed network: an HTTP proxy that knows who asks by the address of the asking instance.

It understands tunnels (``CONNECT``) and plain requests (``http://…``), one per connection. It keeps nothing of what passes, and writes down what
it refused: who, where to, why; never a path, a header or a body.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.abc
import h11
import structlog

from cnap_runner.egress.client_side import CHUNK_BYTES, Asked, ClientSide, refusal
from cnap_runner.egress.reaching import Outside, Refused
from cnap_runner.egress.rulebook import Entries, Entry, Rulebook
from cnap_runner.egress.rules import Rule, find_rule

_GONE = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.TypedAttributeLookupError,  # of a connection that was reset before it was looked at
    OSError,
)
_OURS = Path(__file__).parent
_LAST_READ_SECONDS = 1.0
_TOLD_WHY = 16
"""Connections beyond its share that a client is told why; the others are closed without a word, or telling them would be its own flood."""


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What all clients together and each of them may take."""

    connections: int = 1536
    """Each takes two of the process's open files."""
    connections_per_client: int = 128
    head_time: timedelta = timedelta(seconds=15)
    """From a connection's start until its request's headers are there."""
    connect_time: timedelta = timedelta(seconds=15)
    """For resolving and connecting together."""
    idle_time: timedelta = timedelta(minutes=30)
    """Silence in both directions after which a connection ends. Models think for minutes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Passage:
    """One open connection to the outside."""

    client: str
    instance_id: str
    asked: Asked
    scope: anyio.CancelScope
    idle_seconds: float

    def touch(self) -> None:
        """Something passed: the time of silence begins anew."""
        self.scope.deadline = anyio.current_time() + self.idle_seconds


class Proxy:
    """Answers clients by the rules of a rulebook. Owns no socket: `handle` is given each connection."""

    def __init__(
        self,
        book: Rulebook,
        *,
        outside: Outside,
        log: structlog.stdlib.BoundLogger,
        limits: ProxyLimits = ProxyLimits(),
    ) -> None:
        self._book = book
        self._outside = outside
        self._log = log
        self._limits = limits
        self._stamp: tuple[int, int] | None = None
        self._entries: Entries = {}
        self._clients: Counter[str] = Counter()
        self._passages: set[_Passage] = set()

    @property
    def is_idle(self) -> bool:
        """Whether no instance has rules, and no connection is open."""
        return not self._known() and not self._clients

    def apply_changes(self) -> None:
        """End the connections that the rulebook does not allow any more."""
        entries = self._known()
        for passage in self._passages:
            entry = entries.get(passage.client)
            if entry is None or entry.instance_id != passage.instance_id or not _find(entry, passage.asked):
                self._log.info(
                    "connection_ended", client=passage.client, **_place(passage.asked), reason="rules changed"
                )
                passage.scope.cancel()

    async def handle(self, client: anyio.abc.SocketStream) -> None:
        """Serve one connection to its end. Never raises: one client's trouble is not another's."""
        async with client:
            with contextlib.suppress(*_GONE):
                address = str(client.extra(anyio.abc.SocketAttribute.remote_address)[0])  # noqa: S610 - no database
                if self._has_room(address, beyond=_TOLD_WHY):
                    await self._answer(client, address)

    async def _answer(self, client: anyio.abc.SocketStream, address: str) -> None:
        has_room = self._has_room(address)
        with self._counted(address):
            try:
                if has_room:
                    await self._serve(client, address)
                else:
                    await _send_refusal(client, Refused(503, "too many connections are open."))
            except Refused as answer:
                await _send_refusal(client, answer)
            except _GONE:
                return
            except Exception as error:  # noqa: BLE001 - a defect met by one client must not end the proxy for all
                self._log.error("connection_failed", client=address, **_defect(error))

    async def _serve(self, client: anyio.abc.SocketStream, address: str) -> None:
        side = ClientSide(client)
        asked = await self._read(side)
        if asked is None:
            return
        entry = self._known().get(address)
        try:
            rule = _admitting(entry, asked)
            with _limit(self._limits.connect_time, 502, f"{asked.host} did not answer in time."):
                server = await self._outside.connect(asked.host, asked.port, rule=rule, client=address)
        except Refused as answer:
            agent_id = entry.agent_id if entry else None
            self._log.warning("refused", client=address, agent_id=agent_id, **_place(asked), reason=answer.reason)
            raise
        async with server:
            with self._passing(address, entry, asked) as passage:
                await (_tunnel if asked.is_tunnel else _forward)(side, client, server, passage)

    async def _read(self, side: ClientSide) -> Asked | None:
        with _limit(self._limits.head_time, 408, "no request came in time."):
            try:
                return await side.read_request()
            except h11.RemoteProtocolError as error:
                raise Refused(400, "this is no HTTP request.") from error
            except ValueError as error:  # among them our own InvalidInput
                raise Refused(400, f"this is no request to a proxy: {error}") from error

    def _known(self) -> Entries:
        if (stamp := self._book.stamp()) != self._stamp or stamp is None:
            self._stamp, self._entries = stamp, self._book.entries()
        return self._entries

    def _has_room(self, address: str, *, beyond: int = 0) -> bool:
        limits, taken = self._limits, self._clients
        return taken.total() < limits.connections + beyond and taken[address] < limits.connections_per_client + beyond

    @contextlib.contextmanager
    def _counted(self, address: str) -> Iterator[None]:
        self._clients[address] += 1
        try:
            yield
        finally:
            self._clients[address] -= 1
            self._clients += Counter()  # forgets who has none

    @contextlib.contextmanager
    def _passing(self, address: str, entry: Entry | None, asked: Asked) -> Iterator[_Passage]:
        instance_id = entry.instance_id if entry else ""
        with anyio.CancelScope() as scope:
            passage = _Passage(address, instance_id, asked, scope, self._limits.idle_time.total_seconds())
            passage.touch()
            self._passages.add(passage)
            try:
                yield passage
            finally:
                self._passages.discard(passage)


def _find(entry: Entry, asked: Asked) -> Rule | None:
    return find_rule(entry.rules, asked.host, asked.port)


def _admitting(entry: Entry | None, asked: Asked) -> Rule:
    if entry is None:
        raise Refused(403, "nothing is allowed from this address.")
    rule = _find(entry, asked)
    if rule is None:
        raise Refused(403, f"{asked.host}:{asked.port} is not on the list of agent {entry.agent_id}.")
    return rule


def _place(asked: Asked) -> dict[str, str | int]:
    return {"host": asked.host, "port": asked.port}


def _defect(error: Exception) -> dict[str, str]:
    """Say what went wrong and where in the program, without the error's words: they may quote what passes."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if Path(frame.filename).parent == _OURS), frames[-1])
    return {"error": type(error).__name__, "at": f"{Path(place.filename).name}:{place.lineno}"}


@contextlib.contextmanager
def _limit(time: timedelta, status: int, reason: str) -> Iterator[None]:
    try:
        with anyio.fail_after(time.total_seconds()):
            yield
    except TimeoutError as error:
        raise Refused(status, reason) from error


async def _tunnel(
    side: ClientSide, client: anyio.abc.SocketStream, server: anyio.abc.SocketStream, passage: _Passage
) -> None:
    """Carry bytes both ways until both sides have ended."""
    await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    if early := side.early_bytes():
        await server.send(early)
    async with anyio.create_task_group() as ways:
        ways.start_soon(_carry, client, server, passage)
        ways.start_soon(_carry, server, client, passage)


async def _forward(
    side: ClientSide, client: anyio.abc.SocketStream, server: anyio.abc.SocketStream, passage: _Passage
) -> None:
    """Pass one request on, and its answer back, which ends with the server's connection."""

    async def answer() -> None:
        await _carry(server, client, passage)
        passage.scope.cancel()

    async with anyio.create_task_group() as ways:
        ways.start_soon(answer)
        try:
            async with contextlib.aclosing(side.passed_on(passage.asked)) as request:
                async for part in request:
                    await server.send(part)
                    passage.touch()
        except (h11.ProtocolError, *_GONE):
            passage.scope.cancel()


async def _carry(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, passage: _Passage) -> None:
    """Carry bytes one way. When one side has said all it had to say, the other is told so, and may go on itself."""
    try:
        async for chunk in source:
            await sink.send(chunk)
            passage.touch()
        await sink.send_eof()
    except _GONE:
        passage.scope.cancel()


async def _send_refusal(client: anyio.abc.SocketStream, answer: Refused) -> None:
    """Answer, and read what is still under way: closing a connection with unread bytes would take the answer back."""
    await client.send(refusal(answer.status, answer.reason))
    await client.send_eof()
    with anyio.move_on_after(_LAST_READ_SECONDS):
        while True:
            await client.receive(CHUNK_BYTES)
