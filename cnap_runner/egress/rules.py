"""Rules of hosts and ports, as an operator writes them: ``host``, ``host:port``, ``*.domain`` and ``*.domain:port``. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

import idna

from cnap_runner.errors import InvalidInput

USUAL_PORTS = (80, 443)
"""Meant where a rule names no port."""

HOST_ALIAS = "host.docker.internal"
"""The host itself, by the name it has inside of an instance."""

_LONGEST = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Rule:
    """What one line of a list allows."""

    host: str
    """In its normal form (`normal_host`); under a wildcard the domain."""
    ports: tuple[int, ...] = USUAL_PORTS
    is_wildcard: bool = False
    """Whether all names below the domain are meant. The domain itself is not."""
    may_be_private: bool = False
    """Whether the host may have a private address: the operator configured it as an endpoint, or named an address."""

    def admits(self, host: str, port: int) -> bool:
        """Whether the rule allows a host, in its normal form, and a port."""
        if port not in self.ports:
            return False
        return host.endswith(f".{self.host}") if self.is_wildcard else host == self.host


def parse_rule(text: str, *, is_endpoint: bool = False) -> Rule:
    """Read one rule; raises `InvalidInput` that quotes it.

    ``is_endpoint``: the operator configured this host as one to be used, so its address may be private.
    """
    is_wildcard = text.startswith("*.")
    try:
        host, port = split_authority(text.removeprefix("*."))
    except InvalidInput as error:
        raise InvalidInput(
            f"{text[:80]!r} is no rule for egress: {error.message}",
            hint="Write host, host:port, *.domain or *.domain:port.",
        ) from None
    is_address = as_address(host) is not None
    if is_wildcard and (is_address or "." not in host):
        raise InvalidInput(
            f"{text[:80]!r} is no rule for egress: a wildcard stands before a domain such as example.com."
        )
    return Rule(
        host=host,
        ports=USUAL_PORTS if port is None else (port,),
        is_wildcard=is_wildcard,
        may_be_private=is_endpoint or is_address,
    )


def find_rule(rules: Iterable[Rule], host: str, port: int) -> Rule | None:
    """Give the rule that admits a host, in its normal form, and a port; one that admits more addresses goes first."""
    admitting = [rule for rule in rules if rule.admits(host, port)]
    return max(admitting, key=lambda rule: rule.may_be_private, default=None)


def split_authority(text: str) -> tuple[str, int | None]:
    """Split ``host[:port]`` and give the host in its normal form. An IPv6 address stands in brackets. Raises `InvalidInput`."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_ipv6(host):
            raise InvalidInput("what stands in brackets is no IPv6 address.")
    else:
        host, colon, port = text.partition(":")
        rest = f"{colon}{port}"
    if rest and not (rest.startswith(":") and re.fullmatch(r"[0-9]{1,5}", rest[1:]) and 0 < int(rest[1:]) <= 0xFFFF):
        raise InvalidInput("its port is no number from 1 to 65535.")
    return normal_host(host), int(rest[1:]) if rest else None


def normal_host(text: str) -> str:
    """Give the one form in which a host is compared: lower case, ASCII, without a trailing dot; an address in its shortest form.

    Raises `InvalidInput` for what is no host, and for numbers that some programs take for an address (``127.1``, ``0x7f000001``).
    """
    if (address := as_address(text)) is not None:
        return str(address)
    try:
        host = idna.encode(text, uts46=True).decode() if not text.isascii() else text.lower()
    except idna.IDNAError:
        raise InvalidInput("it is no host name.") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput("it is no host name.")
    if _NUMERIC.fullmatch(labels[-1]):
        raise InvalidInput("it is neither a host name nor an IP address.")
    return host


def as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address in its usual notation; None where it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_ipv6(text: str) -> bool:
    return isinstance(as_address(text), ipaddress.IPv6Address) and "%" not in text
