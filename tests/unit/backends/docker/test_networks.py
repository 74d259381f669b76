"""What the engine says of networks."""

from __future__ import annotations

from typing import Any

import pytest

from cnap_runner.backends.docker.networks import network_facts
from cnap_runner.errors import BackendError
from cnap_runner.model.instance import NetworkFacts

SAID: dict[str, Any] = {
    "Id": "0123456789abcdef",
    "Internal": True,
    "IPAM": {
        "Config": [
            {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
            {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1/16"},
        ]
    },
    "Options": {"com.docker.network.bridge.enable_icc": "false"},
}


def test_a_bridge_is_named_after_its_network() -> None:
    """The IPv4 addresses count, and some versions of the engine write the gateway with a mask."""
    assert network_facts(SAID) == NetworkFacts(
        id="0123456789abcdef",
        interface="br-0123456789ab",
        gateway="172.18.0.1",
        subnet="172.18.0.0/16",
        is_internal=True,
    )


def test_a_bridge_that_was_given_a_name_has_it() -> None:
    """Whoever made the network by hand may have chosen one."""
    assert network_facts({**SAID, "Options": {"com.docker.network.bridge.name": "br-agents"}}).interface == "br-agents"


@pytest.mark.parametrize(
    "ranges", [None, [], [{"Subnet": "fd00::/64", "Gateway": "fd00::1"}], [{"Subnet": "10.1.0.0/16"}]]
)
def test_a_network_without_an_ipv4_gateway_is_one_clear_error(ranges: Any) -> None:
    """It names the network and what to do."""
    with pytest.raises(BackendError, match="Network cnap-x has no IPv4 gateway"):
        network_facts({**SAID, "Name": "cnap-x", "IPAM": {"Config": ranges}})
