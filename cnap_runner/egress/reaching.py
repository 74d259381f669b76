"""From a host's name to a connection: resolved here, checked here, and connected to the very address that was checked.

So a name whose answer changes between check and use (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc

from cnap_runner.egress.addresses import why_refused
from cnap_runner.egress.lookups import Lookups
from cnap_runner.egress.rules import HOST_ALIAS, Rule, as_address
from cnap_runner.egress.upstream import Upstream

Resolve = Callable[[str, int, str], Awaitable[Sequence[str]]]
"""Gives the addresses of a host's name, at a port, for a client; raises `OSError` where it has none."""

_DISCARD_PORT = 9


class Refused(Exception):
    """What a client asked for is not done. The proxy answers with the status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outside:
    """All that is beyond the proxy, as this host reaches it."""

    host_address: str
    """What `HOST_ALIAS` stands for."""
    resolver: Resolve = field(default_factory=Lookups)
    upstream: Upstream | None = None

    async def connect(self, host: str, port: int, *, rule: Rule, client: str) -> anyio.abc.SocketStream:
        """Connect to a host that a rule admits, for a client. Raises `Refused` where it cannot or may not be reached."""
        if self.upstream is not None and host != HOST_ALIAS and self.upstream.is_for(host):
            return await self._connect_through(self.upstream, host, port, rule)
        refused = "it does not resolve"
        for address in await self._addresses(host, port, client):
            why = None if host == HOST_ALIAS else _why_refused(address, rule=rule)
            if why is not None:
                refused = why
                continue
            refused = ""
            with contextlib.suppress(OSError):
                # An address, so that nothing is resolved a second time.
                return await anyio.connect_tcp(address, port)
        if refused:
            raise Refused(403, f"{host}:{port} is refused: {refused}.")
        raise Refused(502, f"{host}:{port} cannot be connected to.")

    async def _connect_through(self, upstream: Upstream, host: str, port: int, rule: Rule) -> anyio.abc.SocketStream:
        """Let a company's proxy connect. It resolves names itself, because this host may not be able to."""
        if as_address(host) is not None and (why := _why_refused(host, rule=rule)) is not None:
            raise Refused(403, f"{host}:{port} is refused: {why}.")
        if upstream.host == HOST_ALIAS:
            upstream = replace(upstream, host=self.host_address)
        try:
            return await upstream.connect(host, port)
        except OSError as error:
            raise Refused(502, f"the upstream proxy does not connect to {host}:{port}.") from error

    async def _addresses(self, host: str, port: int, client: str) -> Sequence[str]:
        if host == HOST_ALIAS:
            return [self.host_address]
        if as_address(host) is not None:
            return [host]
        try:
            return await self.resolver(host, port, client)
        except OSError as error:
            raise Refused(502, f"{host} does not resolve.") from error


def _why_refused(address: str, *, rule: Rule) -> str | None:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    refused = why_refused(parsed, may_be_private=rule.may_be_private)
    if refused is None and not rule.may_be_private and is_own(parsed):
        return "it is an address of this host"
    return refused


def is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of this host's own: then the route to it begins at itself. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - its own signature
        try:
            probe.connect((str(address), _DISCARD_PORT))
        except OSError:
            return False
        return str(probe.getsockname()[0]) == str(address)
