"""Which addresses of the network an agent's proxy may connect to. Pure."""

from __future__ import annotations

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA: tuple[IPNetwork, ...] = (
    ipaddress.ip_network(
        "169.254.0.0/16"
    ),  # AWS, Google, Azure, DigitalOcean, Hetzner, Oracle and others; ECS at 169.254.170.2
    ipaddress.ip_network("100.100.100.200/32"),  # Alibaba Cloud
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's wire server
    ipaddress.ip_network("192.0.0.192/32"),  # Oracle Cloud Classic
    ipaddress.ip_network("fd00:ec2::254/128"),  # AWS
    ipaddress.ip_network("fd20:ce::254/128"),  # Google
    ipaddress.ip_network("fd00:42::42/128"),  # Scaleway
    ipaddress.ip_network("fe80::a9fe:a9fe/128"),  # OpenStack
)
"""Where clouds hand out credentials to whoever asks from the machine. Closed to agents in every mode."""

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""NAT64: the last four bytes are an IPv4 address."""


def why_refused(address: IPAddress, *, may_be_private: bool) -> str | None:
    """Say why nobody may connect to an address; None where it is allowed.

    ``may_be_private`` admits private networks, for hosts that the operator named as such. Loopback, link-local, multicast and metadata
    addresses are refused even then.
    """
    address = _inner(address)
    if address.is_link_local or any(address in network for network in METADATA):
        return "it is a link-local or cloud metadata address"
    if address.is_loopback or address.is_unspecified:
        return "it is a loopback address"
    if address.is_multicast or address.is_reserved or address == ipaddress.IPv4Address("255.255.255.255"):
        return "it is no address of one host"
    if not address.is_global and not may_be_private:
        return "it is a private address"
    return None


def _inner(address: IPAddress) -> IPAddress:
    """Give the IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
