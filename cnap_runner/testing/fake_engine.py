"""What a `FakeBackend` says of its engine and its networks."""

from __future__ import annotations

from cnap_runner.model.engine import Capabilities
from cnap_runner.model.instance import Network, NetworkFacts

CAPABILITIES = Capabilities(
    has_images=True,
    isolates_files=True,
    isolates_network=True,
    isolates_processes=True,
    limits_memory=True,
    limits_cpu=True,
    limits_pids=True,
    can_pause=True,
    closes_network=True,
    has_runtimes=True,
    grants_hardware=True,
    survives_manager=True,
)

_SUBNETS = {Network.OPEN: "198.51.100", Network.CLOSED: "203.0.113"}
"""Of documentation (RFC 5737): nothing answers there."""


def address(network: Network, host: int) -> str:
    """Give the address of a network's host of this number; 1 is the gateway."""
    return f"{_SUBNETS[network]}.{host}"


def network_facts(install_id: str, network: Network) -> NetworkFacts:
    """Make up one of an install's networks."""
    return NetworkFacts(
        id=f"fake-{install_id}-{network}",
        interface=f"fake-{network}",
        gateway=address(network, 1),
        subnet=f"{address(network, 0)}/24",
        is_internal=network is Network.CLOSED,
    )
