"""The two networks of an install. On neither do agents reach each other; through the open one they reach the world and the host."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import anyio
from docker import APIClient

from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.trouble import EngineRefusal, translated
from cnap_runner.errors import BackendError, InstanceStartFailed
from cnap_runner.model.instance import LABEL_INSTALL, LABEL_MANAGED, LABEL_NETWORK, Network, NetworkFacts

_BRIDGE_NAME = "com.docker.network.bridge.name"
_TRIES = 5
_CONFLICT = 409
_NOT_FOUND = 404


class InstallNetworks:
    """Networks by install and kind, found by label and used by id. Names are for people: the engine allows the same name twice."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[str, Network], NetworkFacts] = {}

    async def of(self, install_id: str, kind: Network) -> NetworkFacts:
        """Give an install's network of a kind, making it where there is none."""
        if (install_id, kind) not in self._known:
            with translated(f"Making the {kind} network of install {install_id} failed", otherwise=InstanceStartFailed):
                network_id = await self._ensure(install_id, kind)
                seen = await self._engine.ask(lambda sdk: sdk.inspect_network(network_id))
            self._known[install_id, kind] = network_facts(seen)
        return self._known[install_id, kind]

    async def still(self, install_id: str, kind: Network) -> NetworkFacts:
        """Give a network as `of` does, after asking whether the known one is still there: somebody may have pruned it."""
        known = self._known.get((install_id, kind))
        if known is not None and not await self._exists(known.id):
            self.forget(install_id)
        return await self.of(install_id, kind)

    def forget(self, install_id: str | None = None) -> None:
        """Look anew at the next call, for example because somebody pruned the networks."""
        for known in [key for key in self._known if install_id in {None, key[0]}]:
            del self._known[known]

    async def remove(self, install_id: str) -> None:
        """Remove all networks of an install."""
        self.forget(install_id)
        with translated(f"Removing the networks of install {install_id} failed"):
            for kind in Network:
                for network in await self._find(install_id, kind):
                    await self._remove_one(network["Id"])

    async def _ensure(self, install_id: str, kind: Network) -> str:
        """Find or make the network.

        Two first starts at once may both make one. Each looks again after making its own, and withdraws it when it is not
        alone; of two, at most one can find itself alone, because each was visible before its maker looked.
        """
        for _ in range(_TRIES):
            found = await self._find(install_id, kind)
            if len(found) == 1:
                return str(found[0]["Id"])
            if not found:
                own = await self._create(install_id, kind)
                found = await self._find(install_id, kind)
                if own is not None and [network["Id"] for network in found] == [own]:
                    return own
                if own is not None:
                    await self._remove_one(own)
            await anyio.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - only to part two that try at once
        # Several stay: somebody died between making and withdrawing. All agree on the oldest.
        found = sorted(await self._find(install_id, kind), key=lambda network: (network["Created"], network["Id"]))
        return str(found[0]["Id"]) if found else str(await self._create(install_id, kind))

    async def _exists(self, network_id: str) -> bool:
        with translated("Looking at a network failed"):
            try:
                await self._engine.ask(lambda sdk: sdk.inspect_network(network_id))
            except EngineRefusal as refusal:
                if refusal.status != _NOT_FOUND:
                    raise
                return False
        return True

    async def _find(self, install_id: str, kind: Network) -> list[dict[str, Any]]:
        """Find an install's networks of a kind. One without that label was made when there was only the open kind."""
        labels = [f"{LABEL_MANAGED}=true", f"{LABEL_INSTALL}={install_id}"]
        found: list[dict[str, Any]] = await self._engine.ask(lambda sdk: sdk.networks(filters={"label": labels}))
        return [network for network in found if network["Labels"].get(LABEL_NETWORK, Network.OPEN) == kind]

    async def _create(self, install_id: str, kind: Network) -> str | None:
        """Make a network and give its id; None where the engine says that somebody else just did."""

        def make(sdk: APIClient) -> str:
            made = sdk.create_network(
                f"cnap-{install_id}" if kind is Network.OPEN else f"cnap-{install_id}-{kind}",
                driver="bridge",
                options={"com.docker.network.bridge.enable_icc": "false"},
                check_duplicate=True,
                internal=kind is Network.CLOSED,
                labels={LABEL_MANAGED: "true", LABEL_INSTALL: install_id, LABEL_NETWORK: kind},
            )
            return str(made["Id"])

        try:
            return await self._engine.ask(make)
        except EngineRefusal as refusal:
            if refusal.status == _CONFLICT:
                return None
            raise

    async def _remove_one(self, network_id: str) -> None:
        try:
            await self._engine.ask(lambda sdk: sdk.remove_network(network_id))
        except EngineRefusal as refusal:
            if refusal.status != _NOT_FOUND:
                raise


def network_facts(said: Mapping[str, Any]) -> NetworkFacts:
    """Read the answer to ``GET /networks/{id}``. The engine names a bridge after its network unless it was told a name.

    Raises `BackendError` for one on which the host has no IPv4 address.
    """
    ranges: list[Mapping[str, str]] = said["IPAM"]["Config"] or []
    addresses = next((one for one in ranges if ":" not in one.get("Subnet", ":") and one.get("Gateway")), None)
    if addresses is None:
        raise BackendError(
            f"Network {said.get('Name') or said['Id']} has no IPv4 gateway, at which agents are reached.",
            hint="Remove the network, and it is made anew; where it comes back so, see the engine's daemon.json.",
        )
    interface = (said.get("Options") or {}).get(_BRIDGE_NAME) or f"br-{said['Id'][:12]}"
    return NetworkFacts(
        id=str(said["Id"]),
        interface=str(interface),
        gateway=addresses["Gateway"].partition("/")[0],
        subnet=addresses["Subnet"],
        is_internal=bool(said["Internal"]),
    )
