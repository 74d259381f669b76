"""The one network of an install: its agents reach the world and the host through it, and not each other."""

from __future__ import annotations

import random
from typing import Any

import anyio
from docker import APIClient

from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.trouble import EngineRefusal, translated
from cnap_runner.errors import InstanceStartFailed
from cnap_runner.model.instance import LABEL_INSTALL, LABEL_MANAGED

_TRIES = 5
_CONFLICT = 409
_NOT_FOUND = 404


class InstallNetworks:
    """Networks by install, found by label and used by id. Names are for people: the engine allows the same name twice."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, str] = {}

    async def of(self, install_id: str) -> str:
        """Give the id of an install's network, making it where there is none."""
        if install_id not in self._known:
            with translated(f"Making the network of install {install_id} failed", otherwise=InstanceStartFailed):
                self._known[install_id] = await self._ensure(install_id)
        return self._known[install_id]

    def forget(self, install_id: str | None = None) -> None:
        """Look anew at the next call, for example because somebody pruned the networks."""
        if install_id is None:
            self._known.clear()
        else:
            self._known.pop(install_id, None)

    async def remove(self, install_id: str) -> None:
        """Remove all networks of an install."""
        self.forget(install_id)
        with translated(f"Removing the network of install {install_id} failed"):
            for network in await self._find(install_id):
                await self._remove_one(network["Id"])

    async def _ensure(self, install_id: str) -> str:
        """Find or make the network.

        Two first starts at once may both make one. Each looks again after making its own, and withdraws it when it is not
        alone; of two, at most one can find itself alone, because each was visible before its maker looked.
        """
        for _ in range(_TRIES):
            found = await self._find(install_id)
            if len(found) == 1:
                return str(found[0]["Id"])
            if not found:
                own = await self._create(install_id)
                found = await self._find(install_id)
                if own is not None and [network["Id"] for network in found] == [own]:
                    return own
                if own is not None:
                    await self._remove_one(own)
            await anyio.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - only to part two that try at once
        # Several stay: somebody died between making and withdrawing. All agree on the oldest.
        found = sorted(await self._find(install_id), key=lambda network: (network["Created"], network["Id"]))
        return str(found[0]["Id"]) if found else str(await self._create(install_id))

    async def _find(self, install_id: str) -> list[dict[str, Any]]:
        labels = [f"{LABEL_MANAGED}=true", f"{LABEL_INSTALL}={install_id}"]
        found: list[dict[str, Any]] = await self._engine.ask(lambda sdk: sdk.networks(filters={"label": labels}))
        return found

    async def _create(self, install_id: str) -> str | None:
        """Make a network and give its id; None where the engine says that somebody else just did."""

        def make(sdk: APIClient) -> str:
            made = sdk.create_network(
                f"cnap-{install_id}",
                driver="bridge",
                options={"com.docker.network.bridge.enable_icc": "false"},
                check_duplicate=True,
                labels={LABEL_MANAGED: "true", LABEL_INSTALL: install_id},
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
