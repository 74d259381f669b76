"""From a host's name to a connection: resolved here, checked here, and connected to the very address that was checked.

So a name whose answer changes between check and use (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc

from cnap_runner.egress.addresses import why_refused
from cnap_runner.egress.rules import HOST_ALIAS, Rule, as_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host's name; raises `OSError` where it has none."""

_DISCARD_PORT = 9


class Refused(Exception):
    """What a client asked for is not done. The proxy answers with the status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the host's own resolver."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def connect(host: str, port: int, *, rule: Rule, host_address: str, resolver: Resolve) -> anyio.abc.SocketStream:
    """Connect to a host that a rule admits. Raises `Refused` where it cannot or may not be reached."""
    reason = "it does not resolve"
    for address in await _addresses(host, port, host_address=host_address, resolver=resolver):
        refused = None if host == HOST_ALIAS else _why_refused(address, rule=rule)
        if refused is not None:
            reason = refused
            continue
        try:
            # An address, so that nothing is resolved a second time.
            return await anyio.connect_tcp(address, port)
        except OSError:
            reason = ""
    if not reason:
        raise Refused(502, f"{host}:{port} cannot be connected to.")
    raise Refused(403, f"{host}:{port} is refused: {reason}.")


async def _addresses(host: str, port: int, *, host_address: str, resolver: Resolve) -> Sequence[str]:
    if host == HOST_ALIAS:
        return [host_address]
    if as_address(host) is not None:
        return [host]
    try:
        return await resolver(host, port)
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
