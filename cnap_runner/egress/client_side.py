"""A client's request to a proxy, read and passed on with `h11`: what it asks for, and its body, framed anew."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio.abc
import h11

from cnap_runner.egress.rules import split_authority
from cnap_runner.errors import InvalidInput

HEAD_BYTES = 32 << 10
"""Most that a request's line and headers may take."""
CHUNK_BYTES = 64 << 10
_HTTP_PORT, _HTTPS_PORT = 80, 443
_OURS = frozenset(
    {b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"upgrade", b"host"}
)
"""Headers that concern this hop alone, and the host, which is written anew."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Never this hop's alone, whatever the client says of them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants."""

    host: str
    port: int
    is_tunnel: bool
    """A tunnel (``CONNECT``), not one plain request."""
    head: h11.Request


class ClientSide:
    """The proxy's side of one client's connection, up to the moment when it becomes a tunnel."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    async def read_request(self) -> Asked | None:
        """Read a request's line and headers; None where the client left without one.

        Raises `InvalidInput` for what a proxy is not asked, and `h11.RemoteProtocolError` for what is no HTTP.
        """
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        target = event.target.decode("ascii", "replace")
        if event.method == b"CONNECT":
            host, port = split_authority(target)
            return Asked(host, port or _HTTPS_PORT, is_tunnel=True, head=event)
        url = urlsplit(target)
        if url.scheme != "http" or not url.netloc:
            raise InvalidInput("A proxy is asked with CONNECT, or with a whole http:// address.")
        host, port = split_authority(url.netloc.rpartition("@")[2])
        return Asked(host, port or _HTTP_PORT, is_tunnel=False, head=event)

    def early_bytes(self) -> bytes:
        """Give what a client sent behind its ``CONNECT``, without waiting for an answer."""
        self._http.next_event()  # the end of a request that has no body
        return self._http.trailing_data[0]

    async def passed_on(self, asked: Asked) -> AsyncGenerator[bytes]:
        """Yield a plain request as its server is to read it: this one alone, and for the host that was asked for."""
        server = h11.Connection(h11.CLIENT)
        yield server.send(_origin_request(asked)) or b""
        while not isinstance(event := await self._next_event(), h11.ConnectionClosed):
            if isinstance(event, h11.Data | h11.EndOfMessage):
                yield server.send(event) or b""
            if isinstance(event, h11.EndOfMessage):
                return

    async def _next_event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                self._http.receive_data(await self._stream.receive(CHUNK_BYTES))
            except anyio.EndOfStream:
                self._http.receive_data(b"")
        # What follows a whole request is never asked for: its connection ends with the answer.
        return event if not isinstance(event, type) else h11.ConnectionClosed()


def _origin_request(asked: Asked) -> h11.Request:
    """Write the request anew: for the host that was checked, and framed in one way alone (RFC 9112, 6.3)."""
    url = urlsplit(asked.head.target.decode("ascii", "replace"))
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    authority = host if asked.port == _HTTP_PORT else f"{host}:{asked.port}"
    dropped = _dropped(asked.head)
    kept = [(name, value) for name, value in asked.head.headers.raw_items() if name.lower() not in dropped]
    headers = [(b"Host", authority.encode()), *kept, (b"Connection", b"close")]
    return h11.Request(method=asked.head.method, target=path.encode("ascii", "replace"), headers=headers)


def _dropped(head: h11.Request) -> frozenset[bytes]:
    """Name the headers that are not passed on: those for this hop, and a length beside chunks, which another server may believe."""
    named = {name.strip() for key, value in head.headers if key == b"connection" for name in value.lower().split(b",")}
    is_chunked = any(name == b"transfer-encoding" for name, _ in head.headers)
    return (_OURS | named) - _FRAMING | ({b"content-length"} if is_chunked else set())


def refusal(status: int, reason: str) -> bytes:
    """Give an answer of the proxy itself, of one line."""
    phrases = {
        400: "Bad Request",
        403: "Forbidden",
        408: "Request Timeout",
        502: "Bad Gateway",
        503: "Service Unavailable",
    }
    body = f"cnap-runner egress: {reason}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {phrases[status]}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
