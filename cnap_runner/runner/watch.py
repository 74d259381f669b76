"""The watch over instances: events as they come, and a comparison of what is recorded with what is there.

An error is never "nothing is there" (FAILURES row 4): when the engine cannot be asked, nothing is concluded.
"""

from __future__ import annotations

import contextlib

from cnap_runner.errors import InstanceNotFound, RunnerNotFound
from cnap_runner.model.counts import EVENT_WATCH_CONNECTIONS
from cnap_runner.model.instance import InstanceEventKind, Observation
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.chronicle import Death, note_death
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances import Instances
from cnap_runner.runner.turns.active import ActiveRuns
from cnap_runner.telemetry.logging import get_logger

SIGKILL_EXIT = 137

_log = get_logger(__name__)

_SHOULD_LIVE = frozenset({RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED})
_FREEZING = frozenset({InstanceEventKind.PAUSED, InstanceEventKind.RESUMED})
_CAN_DIE = _SHOULD_LIVE | {RunnerStatus.STARTING}


class Watch:
    """Turns the death of an instance into status ``failed`` and wakes whoever depends on it."""

    def __init__(self, install: Install, instances: Instances, active: ActiveRuns) -> None:
        self._install = install
        self._instances = instances
        self._active = active
        self._out_of_memory: set[str] = set()
        """Instances in which a process was killed for want of memory; the server itself may go on."""

    async def run(self) -> None:
        """Watch until cancelled. The backend connects again by itself; after each connection all is compared anew."""
        async with self._install.backend.events(self._install.install_id) as events:
            async for event in events:
                self._install.metrics.watch_confirmed()
                if event.kind is InstanceEventKind.CONNECTED:
                    self._install.metrics.count(EVENT_WATCH_CONNECTIONS)
                    await self.compare()
                elif event.kind is InstanceEventKind.OOM and event.instance_id:
                    self._out_of_memory.add(event.instance_id)
                elif event.kind in {InstanceEventKind.DIED, InstanceEventKind.REMOVED} and event.instance_id:
                    is_oom_killed = event.instance_id in self._out_of_memory and event.exit_code == SIGKILL_EXIT
                    self._out_of_memory.discard(event.instance_id)
                    death = Death.of(event.exit_code, is_oom_killed=is_oom_killed)
                    await self._died(event.agent_id or "", event.instance_id, death)
                elif event.agent_id:
                    if event.kind in _FREEZING and event.instance_id:
                        is_frozen = event.kind is InstanceEventKind.PAUSED
                        self._instances.note_freeze(event.instance_id, is_frozen=is_frozen)
                    await self._look(event.agent_id)

    async def compare(self) -> None:
        """Find recorded instances that are not live any more. The records are read first: what they name was there by then."""
        expected = await self._install.store.list_runners(_SHOULD_LIVE)
        if expected:
            seen = {o.ref.instance_id: o for o in await self._install.backend.list_instances(self._install.install_id)}
            for record in expected:
                observation = seen.get(record.instance_id or "")
                if observation is None or not observation.is_live:
                    await self._confirm(record)
        self._install.metrics.watch_confirmed()

    async def _confirm(self, record: RunnerRecord) -> None:
        """Look at one instance once more before it is called dead."""
        observation: Observation | None = None
        if record.ref is not None:
            try:
                observation = await self._install.backend.inspect(record.ref)
            except InstanceNotFound:
                observation = None
        if observation is not None and observation.is_live:
            return
        death = (
            Death("its container is gone")
            if observation is None
            else Death.of(observation.exit_code, is_oom_killed=observation.is_oom_killed)
        )
        await self._died(record.agent_id, record.instance_id or "", death)

    async def _look(self, agent_id: str) -> None:
        """Read anew what is recorded of an agent's runner: another manager may have written it."""
        with contextlib.suppress(RunnerNotFound):
            self._install.known.see((await self._install.store.get_agent(agent_id)).runner)

    async def _died(self, agent_id: str, instance_id: str, death: Death) -> None:
        at, reason = self._install.now(), death.reason
        known = self._install.known.get(agent_id)
        if known is not None and known.instance_id == instance_id and known.status in _CAN_DIE:
            self._install.known.see(known.failed(reason=reason, at=at))
        self._instances.note_death(instance_id, reason, is_out_of_memory=death.is_oom_killed)
        self._active.instance_died(instance_id, reason)
        if await self._install.store.note_death(agent_id, instance_id, reason=reason, at=at):
            await self._look(agent_id)
            _log.warning("instance_died", agent_id=agent_id, instance_id=instance_id, reason=reason)
            if (dead := self._install.known.get(agent_id)) is not None and dead.instance_id == instance_id:
                await note_death(self._install, dead, death)
