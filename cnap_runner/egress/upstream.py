"""A company's own proxy, behind ours: the only way out that some hosts have."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import anyio.abc

from cnap_runner.errors import InvalidInput

_HEAD_BYTES = 16 << 10
_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class Upstream:
    """The company's proxy, and what is reached without it."""

    host: str
    port: int
    direct: tuple[str, ...] = ()
    """Hosts and domains (each with all below it) that are connected to from here."""

    def is_for(self, host: str) -> bool:
        """Whether a host, in its normal form, is reached through the proxy."""
        return not any(host == name or host.endswith(f".{name}") for name in self.direct)

    async def connect(self, host: str, port: int) -> anyio.abc.SocketStream:
        """Open a tunnel. Raises `OSError` where the proxy does not give one."""
        stream = await anyio.connect_tcp(self.host, self.port)
        try:
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            await stream.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
            _require_tunnel(await _read_head(stream))
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        return stream


def upstream_of(http_proxy: str, no_proxy: str) -> Upstream | None:
    """Read the settings of a company's proxy; None where it is empty. Raises `InvalidInput` for one that is not reached by plain HTTP."""
    if not http_proxy:
        return None
    url = urlsplit(http_proxy)
    if url.scheme != "http" or not url.hostname:
        raise InvalidInput(
            f"Egress modes none and allowlist cannot go through {http_proxy}.",
            hint="They need a proxy at an http:// address.",
        )
    direct = tuple(name.strip().lstrip("*.").lower() for name in no_proxy.split(",") if name.strip())
    return Upstream(url.hostname, url.port or _DEFAULT_PORT, direct)


def _require_tunnel(head: bytes) -> None:
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ConnectionRefusedError("the upstream proxy refuses")


async def _read_head(stream: anyio.abc.SocketStream) -> bytes:
    """Read an answer's head and not one byte more: what follows it belongs to the tunnel."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        try:
            head += await stream.receive(1)
        except anyio.EndOfStream:
            raise ConnectionResetError("the upstream proxy ended the connection") from None
        if len(head) > _HEAD_BYTES:
            raise ConnectionRefusedError("the upstream proxy's answer has no end")
    return head
