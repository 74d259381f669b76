"""The parts of one manager, put together, with the two ways to have an agent for oneself."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
from anyio.abc import TaskGroup

from cnap_runner.aio.guarded import keep_running
from cnap_runner.errors import BackendError, RunnerError
from cnap_runner.model.runner import LIVE_STATUSES, RunnerRecord, RunnerStatus
from cnap_runner.runner.collectors.following import LogCollectors
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.leasing import LEASE_POLL_SECONDS, leased, leased_if_free
from cnap_runner.runner.lifecycle.keeper import Keeper
from cnap_runner.runner.metering.metering import Metering
from cnap_runner.runner.provisioning.changes import is_behind
from cnap_runner.runner.reach import Reach
from cnap_runner.runner.recovery.resync import Resync
from cnap_runner.runner.secrecy.errors import redacted_errors
from cnap_runner.runner.turns.active import ActiveRuns, Interruption
from cnap_runner.runner.turns.ending import WIND_UP
from cnap_runner.runner.turns.runs import Runs
from cnap_runner.runner.watch import Watch
from cnap_runner.runner.workspaces.listing import prune
from cnap_runner.runner.workspaces.quota import Quota
from cnap_runner.store.base import Wish, WishKind
from cnap_runner.telemetry.logging import about, get_logger

STOPS_AT_ONCE = 8
SIGN_OFF = timedelta(seconds=2)
"""What closing keeps of its time for the last writes, half of it where that is less."""
CATCH_UP_SECONDS = 15
"""How long a changed spec is applied while its author waits: limits and settings take a second, the end of an instance its grace."""

_log = get_logger(__name__)


class Parts:
    """What a manager is made of while it is open."""

    def __init__(self, install: Install, template: Mapping[str, Any], tasks: TaskGroup) -> None:
        self.install = install
        self.tasks = tasks
        self.active = ActiveRuns()
        self.logs = LogCollectors(install, tasks, self._learn_secrets)
        self.instances = Instances(install, template, self.logs)
        self._quota = Quota(install, self.active, tasks, self._stop_instance)
        self.runs = Runs(install, self.instances, self.active, self._quota, tasks=tasks)
        self.keeper = Keeper(install, self.instances, self.active, tasks, chores=(self._forget_dead, self._prune))
        self._watch = Watch(install, self.instances, self.active)
        self.metering = Metering(install, self._quota.measured)

    async def begin(self, *, is_observer: bool) -> None:
        """Compare what is recorded with what is there, then watch; settle in the background what dead managers left.

        Without an engine the manager opens all the same: what needs none works, and the watch goes on trying.
        """
        install = self.install
        await install.store.register_manager(install.manager_id, pid=os.getpid(), at=install.now())
        await install.store.forget_dead_managers(install.is_alive)
        try:
            await self._watch.compare()
        except BackendError as error:
            _log.warning("engine_not_asked", error=str(error))
        self.tasks.start_soon(self._keep, "watch", self._watch.run)
        self.tasks.start_soon(self._keep, "wishes", self.runs.hear_wishes)
        self.tasks.start_soon(self._keep, "reach", Reach(install).stand_watch)
        self.tasks.start_soon(self._keep, "quota", self._quota.watch)
        self.tasks.start_soon(self._keep, "metering", self.metering.store_regularly)
        self.tasks.start_soon(self._keep, "secrets", self.instances.known_secrets.forget_deleted)
        if install.exposure is not None:
            await self.tasks.start(self.metering.show, install.exposure)
            if install.exposure.registry is not None:
                self.tasks.start_soon(self._keep, "sampling", self.metering.sampler.run)
        if not is_observer:
            self.tasks.start_soon(self._keep, "resync", Resync(install, self.instances, self._watch).run)
            self.tasks.start_soon(self._keep, "logs", self.logs.follow_all)
            self.tasks.start_soon(self._end_abandoned_starts)
            self.tasks.start_soon(self._keep, "keeper", self.keeper.run)
            self.tasks.start_soon(self._prune)
            self.tasks.start_soon(self._keep, "settlement", self.runs.abandoned.run)

    async def _learn_secrets(self, agent_id: str) -> None:
        await self.instances.known_secrets.learn(agent_id)

    async def drain(self) -> None:
        """Let the turns under way end by themselves, for as long as the shutdown leaves time to end the rest and to stop agents.

        Those that are settled without a caller are left: whichever manager looks next goes on with them.
        """
        settings = self.install.settings
        left = settings.shutdown_timeout - settings.stop_timeout - WIND_UP * 2 - SIGN_OFF
        with anyio.move_on_after(left.total_seconds()):
            for active in self.active:
                if active.has_caller:
                    await active.ended.wait()

    async def end(self, *, within: timedelta) -> None:
        """End the turns under way, and stop the agents that no other living manager uses; then sign off, whatever became of those."""
        install = self.install
        async with AsyncExitStack() as last:
            last.push_async_callback(self.instances.aclose)
            last.push_async_callback(self.metering.store_rest)
            last.push_async_callback(install.store.sign_off, install.manager_id, install.is_alive)
            with anyio.move_on_after(max(within - SIGN_OFF, within / 2).total_seconds()) as patience:
                await self._end_work()
            if patience.cancelled_caught:
                _log.warning("closed_too_late", reason="not all that it used could be stopped in time")

    async def _end_work(self) -> None:
        for active in self.active:
            active.interrupt(Interruption.ABORTED, "its manager closes")
        for active in self.active:
            await active.ended.wait()
        if self.install.settings.on_shutdown == "stop":
            limiter = anyio.CapacityLimiter(STOPS_AT_ONCE)
            async with anyio.create_task_group() as stops:
                for agent_id in self.runs.used:
                    stops.start_soon(self._stop_unused, agent_id, limiter)
        await self.instances.wait_whole()  # ends that the keeper had begun: their leases go with the signature

    @asynccontextmanager
    async def leased(self, agent_id: str, purpose: str) -> AsyncIterator[None]:
        """Have the agent for one change; waits until whoever has it now is done. What the block raises is redacted."""
        install = self.install
        async with leased(install, agent_id, purpose):
            with about(**install.ids, agent_id=agent_id), redacted_errors(install.redactor):
                yield

    async def catch_up(self, agent_id: str) -> None:
        """Give an idle agent's instance what changed in its spec, if that is done soon; else its next turn begins with it. Never raises
        a `RunnerError`: that the spec is stored is what its caller asked for."""
        install = self.install
        row = await install.store.get_agent(agent_id)
        is_idle = row.runner.status is RunnerStatus.READY and not await install.store.queue_of(agent_id)
        if not is_idle or not is_behind(row.runner, self.instances.planner.target(row.spec)):
            return
        async with leased_if_free(install, agent_id, "change") as is_ours:
            if is_ours:
                await self._catch_up_soon(agent_id)

    async def _catch_up_soon(self, agent_id: str) -> None:
        install = self.install
        try:
            with anyio.move_on_after(CATCH_UP_SECONDS) as patience:
                await self.instances.catch_up(await install.store.get_agent(agent_id))
            if patience.cancelled_caught:
                _log.warning("change_applied_later", agent_id=agent_id, reason="it took too long")
        except RunnerError as error:
            _log.warning("change_applied_later", agent_id=agent_id, reason=install.redactor.redact(error.message))

    @asynccontextmanager
    async def emptied(self, agent_id: str, kind: WishKind) -> AsyncIterator[None]:
        """Have the agent for one change, after all runs asked for before have ended, whoever drives them."""
        wish = await self.runs.end_all(agent_id, kind)
        try:
            async with self.leased(agent_id, str(kind)):
                while await self._is_awaited(wish):
                    await anyio.sleep(LEASE_POLL_SECONDS)
                yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.install.store.drop_wish(wish.wish_id)

    async def _is_awaited(self, wish: Wish) -> bool:
        """Whether a living owner still has to hear the wish for one of its waiting runs."""
        queue = await self.install.store.queue_of(wish.agent_id)
        return any(run.place <= wish.upto_place and not self.runs.abandoned.is_abandoned(run) for run in queue)

    async def _stop_unused(self, agent_id: str, limiter: anyio.CapacityLimiter) -> None:
        try:
            async with limiter:
                await self._stop_if_unused(agent_id)
        except RunnerError as error:
            _log.warning("stop_failed", agent_id=agent_id, error=str(error))

    async def _stop_if_unused(self, agent_id: str) -> None:
        """Of several managers that end at the same time, the last one that used the agent stops it."""
        install = self.install
        if await install.store.end_use(install.manager_id, agent_id, install.is_alive):
            async with self.leased(agent_id, "shutdown"):
                # Somebody may have begun to use it while the lease was waited for.
                if not await install.store.end_use(install.manager_id, agent_id, install.is_alive):
                    return
                await self._stop_if_free((await install.store.get_agent(agent_id)).runner)

    async def _stop_if_free(self, record: RunnerRecord) -> None:
        """Stop an instance, unless somebody holds its agent or works inside it: whoever keeps the install stops it afterwards."""
        install, reason = self.install, "the manager that used it ended"
        if record.status in LIVE_STATUSES - {RunnerStatus.STOPPING}:
            stopping = record.stop_intended(reason=reason, at=install.now())
            if not await install.store.save_if_free(
                stopping, seen=record, manager_id=install.manager_id, now=install.now()
            ):
                return
            record = stopping
        await self.instances.end(record, reason=reason)

    async def _forget_dead(self) -> None:
        """Let go of what managers that were killed had: their leases, and places they had begun to take or give back."""
        await self.install.store.forget_dead_managers(self.install.is_alive)
        await self.instances.end_abandoned()

    async def _end_abandoned_starts(self) -> None:
        try:
            await self.instances.end_abandoned()
        except RunnerError as error:
            _log.warning("clean_up_failed", error=str(error))

    async def _stop_instance(self, agent_id: str, instance_id: str, reason: str) -> None:
        """Stop one instance between turns, unless another has taken its place."""
        async with self.leased(agent_id, "quota"):
            record = (await self.install.store.get_agent(agent_id)).runner
            if record.instance_id == instance_id:
                await self.instances.end(record, reason=reason)

    async def _prune(self) -> None:
        try:
            await prune(self)
        except RunnerError as error:
            _log.warning("prune_failed", error=str(error))

    async def _keep(self, name: str, loop: Any) -> None:
        with about(**self.install.ids):
            await keep_running(loop, failed=lambda error: _log.warning(f"{name}_failed", error=str(error)))
