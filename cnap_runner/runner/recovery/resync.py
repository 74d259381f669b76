"""Bringing records and instances together now and then, whatever the events told or did not tell (FAILURES row 5)."""

from __future__ import annotations

import anyio

from cnap_runner.errors import BackendError, StoreBusy
from cnap_runner.model.instance import Observation
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.journal import note
from cnap_runner.runner.leasing import leased_if_free
from cnap_runner.runner.watch import Watch
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


class Resync:
    """Compares all that is recorded with all that is there. Several managers may do so at the same time."""

    def __init__(self, install: Install, instances: Instances, watch: Watch) -> None:
        self._install = install
        self._instances = instances
        self._watch = watch

    async def run(self) -> None:
        """Look once in each ``sweep_interval`` until cancelled. A round in which something cannot be asked concludes nothing."""
        while True:
            await anyio.sleep(self._install.settings.sweep_interval.total_seconds())
            try:
                await self.look()
            except (BackendError, StoreBusy) as error:
                _log.warning("resync_skipped", error=str(error))

    async def look(self) -> None:
        """Find instances that died unnoticed, and end orphans. Raises `BackendError` and `StoreBusy`; nothing is concluded then."""
        expected = await self._watch.expected()
        seen = await self._install.backend.list_instances(self._install.install_id)
        if await self._watch.bury(expected, seen):
            # The stream should have told: it is alive and mute, or what it told was lost.
            self._watch.renew()
        # Read after the list: whatever is in that was recorded before it was created.
        named = await self._install.store.named_instances()
        for observation in seen:
            if observation.ref.instance_id not in named:
                await self._end_orphan(observation)

    async def _end_orphan(self, orphan: Observation) -> None:
        """End and remove an instance of this install that no record names, unless somebody is at work on its agent."""
        install, agent_id = self._install, orphan.agent_id
        async with leased_if_free(install, agent_id, "orphan") as is_ours:
            if not is_ours or orphan.ref.instance_id in await install.store.named_instances():
                return
            await self._instances.remove_stray(orphan.ref)
        evidence: Evidence = {
            "instance_id": orphan.ref.instance_id,
            "generation": orphan.generation,
            "was": str(orphan.status),
        }
        reason = "a container of it was there that no record names"
        await note(install, agent_id, DecisionKind.ORPHAN_REMOVED, reason, evidence)
