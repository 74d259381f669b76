"""One step in an instance's life, done between turns: freeze, stop, replace, give a place away.

Each takes the agent's lease without waiting, for whoever has it is at work. That the agent is idle is found out in the transaction that
writes what is about to happen; a run, hold or question that comes later finds it written, and waits for the lease.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from cnap_runner.errors import BackendError, InstanceExited, InstanceNotFound, InvalidInput
from cnap_runner.model.decisions.life import who_yields
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import LIVE_STATUSES, RunnerRecord, RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.leasing import leased_if_free
from cnap_runner.runner.lifecycle.limits import limits_of
from cnap_runner.runner.lifecycle.wear import Wear
from cnap_runner.store.base import AgentRow, KeptAgent
from cnap_runner.telemetry.logging import get_logger

if TYPE_CHECKING:
    from cnap_runner.runner.instances.instances import Instances

_log = get_logger(__name__)


class LifeSteps:
    """Does them. Each tells whether it was done; raises the backend's errors, after which the agent is looked at again later."""

    def __init__(self, install: Install, instances: Instances) -> None:
        self._install = install
        self._instances = instances

    async def pause(self, kept: KeptAgent, *, reason: str) -> bool:
        """Freeze an idle instance. Its memory stays, and the next run thaws it."""
        install, seen = self._install, kept.agent.runner
        if seen.status is not RunnerStatus.READY:
            return False
        now = install.now()
        limits = limits_of(install, kept.agent.spec)
        idle_since = kept.standing.idle_since(limits.pause_after)
        stops_at = None if limits.idle_timeout is None else idle_since + limits.idle_timeout
        async with self._lease(kept, "pause") as is_ours:
            paused = seen.paused(at=now).due(stops_at)
            if not is_ours or not await self._begin(seen, paused):
                return False
            return await self._freeze(seen, paused, reason=reason, evidence=_idle_evidence(kept, install))

    async def pause_now(self, row: AgentRow, *, reason: str) -> bool:
        """Freeze a ready instance because somebody says so. The caller holds the agent's lease."""
        now = self._install.now()
        idle_timeout = limits_of(self._install, row.spec).idle_timeout
        paused = row.runner.paused(at=now).due(None if idle_timeout is None else now + idle_timeout)
        await self._install.save_runner(paused)
        return await self._freeze(row.runner, paused, reason=reason, evidence={"instance": row.runner.instance_id})

    async def _freeze(self, seen: RunnerRecord, paused: RunnerRecord, *, reason: str, evidence: Evidence) -> bool:
        """Freeze an instance whose record says so already; where that fails, the record says again what was seen."""
        install = self._install
        if seen.ref is None:
            return False
        try:
            await install.backend.pause(seen.ref)
        except (InstanceExited, InstanceNotFound):
            return False  # the watch tells of its end
        except BackendError:
            await install.save_runner(seen)
            raise
        self._instances.note_freeze(seen.ref.instance_id, is_frozen=True)
        install.known.see(paused)
        await note(install, seen.agent_id, DecisionKind.PAUSED, reason, evidence)
        return True

    async def stop_idle(self, kept: KeptAgent, *, reason: str, kind: DecisionKind = DecisionKind.STOPPED_IDLE) -> bool:
        """Stop an idle instance; session and workspace stay."""
        install, seen = self._install, kept.agent.runner
        async with self._lease(kept, "idle") as is_ours:
            stopping = seen.stop_intended(reason=reason, at=install.now())
            if not is_ours or not await self._begin(seen, stopping):
                return False
            await self._instances.end_whole(stopping, reason=reason, kind=kind, evidence=_idle_evidence(kept, install))
        return True

    async def replace(self, kept: KeptAgent, wear: Wear) -> bool:
        """End an instance that is between turns; a held one only if this process could start another."""
        install, agent_id = self._install, kept.standing.agent_id
        async with self._lease(kept, "replace") as is_ours:
            row = await install.store.get_agent(agent_id)
            if not is_ours or row.runner != kept.agent.runner or await install.store.queue_of(agent_id):
                return False
            if kept.standing.held_until is not None and not await self._can_start(row):
                return False
            await self._instances.end_whole(row.runner, reason=wear.reason, kind=wear.kind, evidence=wear.evidence)
        return True

    async def _can_start(self, row: AgentRow) -> bool:
        try:
            await self._instances.planner.plan(row.spec, generation=row.runner.generation + 1)
        except InvalidInput as error:
            reason = self._install.redactor.redact(error.message)
            _log.warning("worn_instance_kept", agent_id=row.agent_id, error=reason)
            return False
        return True

    async def start_again(self, agent_id: str) -> None:
        """Start an agent whose instance was replaced, unless somebody is at work on it. Raises as a start does."""
        install = self._install
        async with leased_if_free(install, agent_id, "replace") as is_ours:
            if is_ours:
                await self._instances.ensure(await install.store.get_agent(agent_id))

    async def make_room(self, *, wanted_by: str) -> bool:
        """Stop the instance that has been idle for longest, for an agent that waits for a place; tell whether one was stopped.

        Nobody yields where that gains nothing: under a limit that was lowered, too many may be at work for a place to become free.
        """
        install = self._install
        kept = {one.standing.agent_id: one for one in await install.store.list_kept(now=install.now())}
        yielding = who_yields(one.standing for one in kept.values())
        counted = await install.store.count_statuses()
        taken = sum(count for status, count in counted.items() if status in LIVE_STATUSES)
        if taken - len(yielding) >= install.settings.max_containers:
            return False
        for standing in yielding:
            reason = f"it was idle for longest, and agent {wanted_by} needed its place"
            if await self.stop_idle(kept[standing.agent_id], reason=reason, kind=DecisionKind.YIELDED):
                return True
        return False

    async def _begin(self, seen: RunnerRecord, following: RunnerRecord) -> bool:
        install = self._install
        return await install.store.save_if_free(following, seen=seen, manager_id=install.manager_id, now=install.now())

    def _lease(self, kept: KeptAgent, purpose: str) -> AbstractAsyncContextManager[bool]:
        return leased_if_free(self._install, kept.standing.agent_id, purpose)


def _idle_evidence(kept: KeptAgent, install: Install) -> Evidence:
    since = kept.standing.idle_since(limits_of(install, kept.agent.spec).pause_after)
    idle = install.now() - since
    return {"idle_seconds": round(idle.total_seconds(), 3), "instance": kept.agent.runner.instance_id}
