"""Rules of hosts and ports."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.egress.addresses import METADATA, why_refused
from cnap_runner.egress.providers import PROVIDER_HOSTS
from cnap_runner.egress.rules import Rule, find_rule, normal_host, parse_rule, split_authority
from cnap_runner.errors import InvalidInput

LABELS = st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_admitted"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "example.com", 80, True),
        ("example.com", "example.com", 8080, False),
        ("example.com", "www.example.com", 443, False),
        ("example.com", "example.com.evil.test", 443, False),
        ("example.com:8443", "example.com", 8443, True),
        ("example.com:8443", "example.com", 443, False),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "notexample.com", 443, False),
        ("*.example.com:22", "git.example.com", 22, True),
        ("EXAMPLE.com.", "example.com", 443, True),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
        ("192.0.2.7:8080", "192.0.2.7", 8080, True),
        ("[2001:DB8::1]:8080", "2001:db8::1", 8080, True),
    ],
)
def test_rule_admits_what_it_names(text: str, host: str, port: int, is_admitted: bool) -> None:
    """A rule admits the hosts and ports that it names, and no others."""
    assert (find_rule([parse_rule(text)], host, port) is not None) is is_admitted


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "*.com", "a b.example", "example.com:0", "example.com:65536", "example.com:x", "example.com:", "http://example.com",
     "example.com/path", "127.1", "2130706433", "0x7f000001", "0x7f.1", "1.2.3.4.5", "a..b", "-a.example", "[1.2.3.4]", "[::1", "::1",
     "fe80::1%eth0", "*.192.0.2.7", "x" * 64 + ".example", "user@example.com", "a*b.example", "пример..рф", "\x00.example"],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    """What could be read in two ways, or in none, is refused when it is written, not when it is used."""
    with pytest.raises(InvalidInput):
        parse_rule(text)


@given(host=HOSTS, port=PORTS, upper=st.booleans(), dot=st.booleans())
def test_spelling_does_not_matter(host: str, port: int, upper: bool, dot: bool) -> None:
    """Case and a trailing dot change nothing, neither in a rule nor in what is asked for."""
    spelled = (host.upper() if upper else host) + ("." if dot else "")
    assert parse_rule(f"{spelled}:{port}") == parse_rule(f"{host}:{port}")
    assert split_authority(f"{spelled}:{port}") == (host, port)


@given(host=HOSTS, other=HOSTS, port=PORTS)
def test_no_host_is_admitted_by_another_hosts_rule(host: str, other: str, port: int) -> None:
    """A host is admitted by its own rule, or by a wildcard of a domain it is in, and by nothing else."""
    exact, wildcard = parse_rule(f"{host}:{port}"), parse_rule(f"*.{host}:{port}")
    assert exact.admits(other, port) is (host == other)
    assert wildcard.admits(other, port) is other.endswith(f".{host}")


@given(st.text(max_size=30))
def test_a_host_has_one_form(text: str) -> None:
    """A host's normal form is its own normal form: what was checked once is what is compared."""
    try:
        host = normal_host(text)
    except InvalidInput:
        return
    assert normal_host(host) == host
    assert host.isascii()


def test_rule_that_admits_more_addresses_goes_first() -> None:
    """A host that is both listed and configured as an endpoint may have a private address."""
    listed, endpoint = parse_rule("llm.corp.example:443"), parse_rule("llm.corp.example:443", is_endpoint=True)
    assert find_rule([listed, endpoint], "llm.corp.example", 443) == endpoint
    assert not listed.may_be_private
    assert endpoint == Rule("llm.corp.example", (443,), may_be_private=True)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fe80::1",
     "127.0.0.1", "127.255.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "240.0.0.1", "ff02::1",
     "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"],
)  # fmt: skip
@pytest.mark.parametrize("may_be_private", [True, False])
def test_addresses_that_are_refused_to_everybody(address: str, may_be_private: bool) -> None:
    """Metadata, loopback, link-local and multicast addresses are refused, however they are written, whoever configured them."""
    assert why_refused(ipaddress.ip_address(address), may_be_private=may_be_private) is not None


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.17.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
)
def test_private_addresses_are_for_configured_hosts(address: str) -> None:
    """A private address is refused, unless the operator configured the host as an endpoint."""
    assert why_refused(ipaddress.ip_address(address), may_be_private=False) is not None
    assert why_refused(ipaddress.ip_address(address), may_be_private=True) is None


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_allowed(address: str) -> None:
    """A public address is nobody's secret."""
    assert why_refused(ipaddress.ip_address(address), may_be_private=False) is None


def test_metadata_networks_are_narrow() -> None:
    """What the packet filter drops in every mode holds nothing that an agent could need."""
    assert all(network.prefixlen >= 16 for network in METADATA)


def test_hosts_of_providers_are_rules() -> None:
    """Each host of the table can be read as a rule."""
    assert all(parse_rule(f"{host}:443").ports == (443,) for host in PROVIDER_HOSTS.values())
