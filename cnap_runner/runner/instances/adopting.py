"""The instance that a record names, if it lives and answers: the one this manager talks to already, or one that it takes over."""

from __future__ import annotations

from dataclasses import replace

import anyio

from cnap_runner.errors import InstanceExited, InstanceNotFound, ServerError
from cnap_runner.model.instance import InstanceRef, InstanceStatus
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.boot import Booter, Life, LiveInstance
from cnap_runner.runner.chronicle import note_adoption
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.reaching import PermittedReach
from cnap_runner.runner.instances.roster import Roster
from cnap_runner.runner.lifecycle.waking import note_woken, thaw
from cnap_runner.runner.secrecy.known import KnownSecrets
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


class Adoption:
    """Finds present instances, and takes over those that another manager started. The caller holds the agent's lease."""

    def __init__(
        self, install: Install, roster: Roster, booter: Booter, *, known_secrets: KnownSecrets, reach: PermittedReach
    ) -> None:
        self._install = install
        self._roster = roster
        self._booter = booter
        self._known_secrets = known_secrets
        self._reach = reach

    async def take_up(self, row: AgentRow) -> tuple[LiveInstance | None, RunnerRecord]:
        """Give the present instance for a next use: awake, its secrets known, its reach kept. None where it does not serve."""
        record = row.runner
        live = await self.use(record)
        if live is None:
            return None, record
        if record.status is RunnerStatus.PAUSED:
            record = await note_woken(self._install, row.spec, record)
        await self._known_secrets.keep_up(row)
        await self._reach.keep(row.spec, live)
        return live, replace(record, status=RunnerStatus.READY, endpoint=live.endpoint)

    async def use(self, record: RunnerRecord) -> LiveInstance | None:
        """Give the recorded instance, thawed; None where it does not serve. Starts nothing."""
        live = self._roster.last_used(record.agent_id)
        if live is None or live.ref.instance_id != record.instance_id or live.life.died.is_set():
            return await self._adopt(record)
        is_frozen = live.life.is_frozen or record.status is RunnerStatus.PAUSED
        return live if not is_frozen or await thaw(self._install, live) else await self._adopt(record)

    async def _adopt(self, record: RunnerRecord) -> LiveInstance | None:
        """Find out whether the recorded instance still serves, and take it over; None where it does not."""
        install = self._install
        if record.ref is None or (endpoint := await self._running_at(record.ref)) is None:
            return None
        await self._known_secrets.learn(record.agent_id)
        life = Life()
        try:
            client = await self._booter.connect(endpoint, record.ref.instance_id, life)
        except (ServerError, InstanceExited) as error:
            _log.warning("adoption_failed", agent_id=record.agent_id, error=str(error))
            return None
        live = LiveInstance(record.agent_id, record.ref, endpoint, client, install.events_of(client), life)
        try:
            await note_adoption(install, record)
            return await self._roster.remember(live)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await live.aclose()
            raise

    async def _running_at(self, ref: InstanceRef) -> str | None:
        """Tell where an instance listens, thawed if it is frozen; None for one that does not run."""
        backend = self._install.backend
        try:
            seen = await backend.inspect(ref)
            if seen.status is InstanceStatus.PAUSED:
                await backend.resume(ref)
            elif seen.status is not InstanceStatus.RUNNING:
                return None
        except (InstanceNotFound, InstanceExited):
            return None
        return seen.endpoint
