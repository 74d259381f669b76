"""The watch over instances: events as they come, and a comparison of what is recorded with what is there.

An error is never "nothing is there" (FAILURES row 4): when the engine cannot be asked, nothing is concluded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import anyio

from cnap_runner.errors import BackendError, InstanceNotFound, RunnerNotFound
from cnap_runner.model.counts import EVENT_WATCH_CONNECTIONS
from cnap_runner.model.instance import InstanceEvent, InstanceEventKind, InstanceStatus, Observation
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.chronicle import Death, note_death
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.turns.active import ActiveRuns
from cnap_runner.telemetry.logging import get_logger

SIGKILL_EXIT = 137
PEAK_SECONDS = 0.5
"""How long an instance that ran out of memory is measured for. One whose server was killed is gone before that."""

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
        self._out_of_memory: dict[str, int | None] = {}
        """Instances in which a process was killed for want of memory, with the most they had, in bytes, where that could be measured. The
        server itself may go on."""
        self._standing: anyio.CancelScope | None = None
        """Of the stream that is open."""

    async def run(self) -> None:
        """Watch until cancelled, or until `renew` is called. The backend connects again by itself; after each connection all is compared
        anew."""
        with anyio.CancelScope() as self._standing:
            async with self._install.backend.events(self._install.install_id) as events:
                async for event in events:
                    await self._hear(event)
                    self._install.metrics.watch_confirmed()

    def renew(self) -> None:
        """Give up the stream that is open, because it did not tell something; whoever runs this begins a new one."""
        if self._standing is not None:
            _log.warning("watch_renewed", reason="it did not tell of a death")
            self._standing.cancel()

    async def _hear(self, event: InstanceEvent) -> None:
        agent_id, instance_id = event.agent_id, event.instance_id
        if event.kind is InstanceEventKind.CONNECTED:
            self._install.metrics.count(EVENT_WATCH_CONNECTIONS)
            await self.compare()
        elif event.kind is InstanceEventKind.OOM and instance_id:
            self._out_of_memory[instance_id] = await self._peak(agent_id or "", instance_id)
        elif event.kind in {InstanceEventKind.DIED, InstanceEventKind.REMOVED} and instance_id:
            is_oom_killed = instance_id in self._out_of_memory and event.exit_code == SIGKILL_EXIT
            peak = self._out_of_memory.pop(instance_id, None)
            await self._died(
                agent_id or "", instance_id, Death.of(event.exit_code, is_oom_killed=is_oom_killed, peak=peak)
            )
        elif agent_id:
            if event.kind in _FREEZING and instance_id:
                self._instances.note_freeze(instance_id, is_frozen=event.kind is InstanceEventKind.PAUSED)
            await self._look(agent_id)

    async def _peak(self, agent_id: str, instance_id: str) -> int | None:
        """Measure the most that an instance had, while it still lives. None where it is gone already; an engine that is slow is not waited for."""
        record = self._install.known.get(agent_id)
        if record is None or record.ref is None or record.instance_id != instance_id:
            return None
        with anyio.move_on_after(PEAK_SECONDS), contextlib.suppress(BackendError):
            usage = await self._install.backend.usage(record.ref)
            return usage.peak_bytes or usage.memory_bytes
        return None

    async def expected(self) -> list[RunnerRecord]:
        """Read which instances should live, or are about to."""
        return await self._install.store.list_runners(_CAN_DIE)

    async def compare(self) -> None:
        """Find recorded instances that are not live any more. The records are read first: what they name was there by then."""
        if expected := await self.expected():
            listed = await self._install.backend.list_instances(self._install.install_id)
            await self.bury(expected, listed, is_unwatched=True)

    async def bury(
        self, expected: Sequence[RunnerRecord], listed: Sequence[Observation], *, is_unwatched: bool = False
    ) -> int:
        """Note the death of the expected instances that a later list does not show alive, and tell how many nobody had noted.

        ``is_unwatched``: they ended while nobody watched, so it may have been the engine's end, or the host's, that ended them.
        """
        seen = {observation.ref.instance_id: observation for observation in listed}
        count = 0
        for record in expected:
            there = seen.get(record.instance_id or "")
            if _looks_dead(record, there):
                count += await self._confirm(record, there, is_unwatched=is_unwatched)
        self._install.metrics.watch_confirmed()
        return count

    async def _confirm(self, record: RunnerRecord, observation: Observation | None, *, is_unwatched: bool) -> bool:
        """Look at one instance once more before it is called dead; tell whether it is, and nobody had noted it."""
        if record.ref is not None:
            try:
                observation = await self._install.backend.inspect(record.ref)
            except InstanceNotFound:
                observation = None
        if observation is not None and observation.is_live:
            return False
        death = (
            Death("its container is gone")
            if observation is None
            else Death.of(observation.exit_code, is_oom_killed=observation.is_oom_killed)
        )
        return await self._died(record.agent_id, record.instance_id or "", replace(death, is_unwatched=is_unwatched))

    async def _look(self, agent_id: str) -> None:
        """Read anew what is recorded of an agent's runner: another manager may have written it."""
        with contextlib.suppress(RunnerNotFound):
            self._install.known.see((await self._install.store.get_agent(agent_id)).runner)

    async def _died(self, agent_id: str, instance_id: str, death: Death) -> bool:
        """Tell everybody of a death; tell whether it was news to the store."""
        install, at = self._install, self._install.now()
        if death.is_oom_killed:
            death = death.with_limit(await self._limit(agent_id, instance_id))
        known = install.known.get(agent_id)
        if known is not None and known.instance_id == instance_id and known.status in _CAN_DIE:
            install.known.see(known.failed(reason=death.reason, at=at))
        try:
            return await self._record(agent_id, instance_id, death, at=at)
        finally:
            # Only now: who is woken may start another instance at once, and this death must count by then.
            self._instances.note_death(instance_id, death.reason, is_out_of_memory=death.is_oom_killed)
            self._active.instance_died(instance_id, death.reason, is_out_of_memory=death.is_oom_killed)

    async def _record(self, agent_id: str, instance_id: str, death: Death, *, at: datetime) -> bool:
        """Write a death down; tell whether it was news to the store."""
        install = self._install
        if not await install.store.note_death(agent_id, instance_id, reason=death.reason, at=at):
            return False
        await self._look(agent_id)
        _log.warning("instance_died", agent_id=agent_id, instance_id=instance_id, reason=death.reason)
        if (dead := install.known.get(agent_id)) is not None and dead.instance_id == instance_id:
            await note_death(install, dead, death)
        return True

    async def _limit(self, agent_id: str, instance_id: str) -> int | None:
        """Tell the memory that an instance might have, in bytes, where that is recorded."""
        with contextlib.suppress(RunnerNotFound):
            record = (await self._install.store.get_agent(agent_id)).runner
            if record.instance_id == instance_id and record.limits is not None:
                return record.limits.memory_bytes
        return None


def _looks_dead(record: RunnerRecord, there: Observation | None) -> bool:
    """Whether what was listed says that an instance has ended. One that starts may not have been created yet, or not been started."""
    if record.status is RunnerStatus.STARTING:
        return there is not None and there.status is InstanceStatus.EXITED
    return there is None or not there.is_live
