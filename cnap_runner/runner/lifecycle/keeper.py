"""The keeper: whichever manager does the sweep at a time freezes, stops and replaces what is due.

Due times are in the store, so they outlive whoever set them; they are looked at each second, by a read that finds the first of them. Each
``sweep_interval`` one of the managers looks at all live instances, whatever their due times say. Both happen under ``keeper.lock``; where
another manager has it, this one skips its turn.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import anyio
from anyio.abc import TaskGroup

from cnap_runner.errors import RunnerError, StoreBusy
from cnap_runner.model.counts import SWEEP_DURATION
from cnap_runner.model.decisions.life import LifeStep, due_step, has_worked
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.lifecycle.holding import sweep_holds
from cnap_runner.runner.lifecycle.last_sweep import LastSweep
from cnap_runner.runner.lifecycle.limits import limits_of
from cnap_runner.runner.lifecycle.wear import Wear, age_of, size_of
from cnap_runner.runner.turns.active import ActiveRuns
from cnap_runner.store.base import KeptAgent
from cnap_runner.telemetry.logging import get_logger

LOOK = timedelta(seconds=1)
"""How often the store is asked who is due."""
AT_ONCE = 4
"""Instances that one sweep measures, freezes or stops at the same time."""
SHARED = 0.75
"""Share of the interval within which a sweep is everybody's. Less than all of it: whoever swept last is to be the next one, too."""
AFTER_TROUBLE = timedelta(seconds=15)
"""How soon a step that failed is tried again."""

Chore = Callable[[], Awaitable[object]]

_log = get_logger(__name__)


class Keeper:
    """Keeps the live instances of an install, together with the keepers of other managers."""

    def __init__(
        self, install: Install, instances: Instances, active: ActiveRuns, tasks: TaskGroup, *, chores: tuple[Chore, ...]
    ) -> None:
        """``chores`` are done with each sweep of all; what one of them raises is logged."""
        self._tasks = tasks
        self._install = install
        self._steps = instances.steps
        self._instances = instances
        self._active = active
        self._chores = chores
        self._last = LastSweep(install.settings.data_dir)

    async def run(self) -> None:
        """Look who is due, and sweep, until cancelled."""
        interval = self._install.settings.sweep_interval.total_seconds()
        look = min(LOOK.total_seconds(), interval)
        next_sweep = anyio.current_time() + look
        while True:
            await anyio.sleep(look)
            if anyio.current_time() >= next_sweep:
                next_sweep = anyio.current_time() + interval
                await self._measure_working()
                await self._locked(self._sweep_in_turn)
            else:
                due_at = await self._install.store.next_due()
                if due_at is not None and due_at <= self._install.now():
                    await self._locked(self.keep_due)

    async def _sweep_in_turn(self) -> None:
        """Sweep, unless another manager did so in this interval."""
        if not await self._last.is_within(self._install.settings.sweep_interval * SHARED):
            await self._last.is_now()
            await self.sweep()

    async def keep_due(self) -> None:
        """Do what is due now."""
        now = self._install.now()
        await self._keep(await self._install.store.list_kept(now=now, only_due=True))

    async def sweep(self) -> None:
        """Look at all live instances, measure them, and do the chores."""
        install, began = self._install, anyio.current_time()
        await sweep_holds(install)
        for chore in self._chores:
            try:
                await chore()
            except Exception as error:  # noqa: BLE001 - whatever it is, the sweep goes on
                _log.warning("chore_failed", error=str(error), exc_info=not isinstance(error, RunnerError))
        await self._keep(await install.store.list_kept(now=install.now()), is_measuring=True)
        install.metrics.observe(SWEEP_DURATION, timedelta(seconds=anyio.current_time() - began))

    async def _keep(self, agents: list[KeptAgent], *, is_measuring: bool = False) -> None:
        limiter = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for kept in agents:
                tasks.start_soon(partial(self._keep_one, kept, limiter, is_measuring=is_measuring))

    async def _keep_one(self, kept: KeptAgent, limiter: anyio.CapacityLimiter, *, is_measuring: bool) -> None:
        async with limiter:
            try:
                if not await self._step(kept) and is_measuring:
                    await self._measure_idle(kept)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is one agent's trouble and no other's
                is_bug = not isinstance(error, RunnerError)
                _log.warning("keeping_failed", agent_id=kept.standing.agent_id, error=str(error), exc_info=is_bug)
                await self._set_due_after(kept, AFTER_TROUBLE)

    async def _step(self, kept: KeptAgent) -> bool:
        """Do what is due for one agent, or set when something is; tell whether something was done."""
        limits, record = limits_of(self._install, kept.agent.spec), kept.agent.runner
        due = due_step(kept.standing, limits, self._install.now())
        match due.step:
            case LifeStep.PAUSE:
                return await self._steps.pause(kept, reason=f"it had nothing to do for {_spell(limits.pause_after)}")
            case LifeStep.STOP_IDLE:
                reason = f"it had nothing to do for {_spell(limits.idle_timeout)}"
                return await self._steps.stop_idle(kept, reason=reason)
            case LifeStep.REPLACE_AGE:
                wear = age_of(record, limits, self._install)
                return wear is not None and await self._replace(kept, wear)
        if record.status is not RunnerStatus.RUNNING and due.again_at != record.due_at:
            await self._install.store.set_due(record, due.again_at)
        return False

    async def _measure_idle(self, kept: KeptAgent) -> None:
        """Replace an instance that is between turns and too large, if a turn made it so."""
        record, standing = kept.agent.runner, kept.standing
        if record.ref is None or standing.is_at_work or standing.status is not RunnerStatus.READY:
            return
        if has_worked(standing):
            wear = await size_of(record.ref, limits_of(self._install, kept.agent.spec), self._install)
            if wear is not None:
                await self._replace(kept, wear)

    async def _replace(self, kept: KeptAgent, wear: Wear) -> bool:
        """End a worn instance; a held agent gets a new one at once, any other with its next run. A start takes its time, and may wait for a
        place: nobody else is to wait for that, so it is a task of its own."""
        if not await self._steps.replace(kept, wear):
            await self._set_due_after(kept, self._install.settings.sweep_interval)
            return False
        if kept.standing.held_until is not None:
            self._tasks.start_soon(self._start_again, kept.standing.agent_id)
        return True

    async def _start_again(self, agent_id: str) -> None:
        try:
            await self._steps.start_again(agent_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent's next run starts it
            is_bug = not isinstance(error, RunnerError)
            _log.warning("held_agent_not_started", agent_id=agent_id, error=str(error), exc_info=is_bug)

    async def _measure_working(self) -> None:
        """Measure the instances in which this manager drives turns; one that is too large is replaced before its next turn."""
        for agent_id in {active.run.agent_id for active in self._active}:
            live = self._instances.last_used(agent_id)
            if live is None or live.worn is not None:
                continue
            try:
                spec = (await self._install.store.get_agent(agent_id)).spec
                live.worn = await size_of(live.ref, limits_of(self._install, spec), self._install)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
                is_bug = not isinstance(error, RunnerError)
                _log.warning("measuring_failed", agent_id=agent_id, error=str(error), exc_info=is_bug)

    async def _set_due_after(self, kept: KeptAgent, pause: timedelta) -> None:
        try:
            await self._install.store.set_due(kept.agent.runner, self._install.now() + pause)
        except RunnerError as error:
            _log.warning("due_time_not_set", agent_id=kept.standing.agent_id, error=str(error))

    async def _locked(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            async with self._install.keeper_lock():
                await work()
        except StoreBusy:
            _log.debug("another_keeper_sweeps")


def _spell(duration: timedelta | None) -> str:
    """Write a duration for people: ``90 s``, ``5 min``."""
    seconds = 0.0 if duration is None else duration.total_seconds()
    return f"{seconds / 60:g} min" if seconds >= 60 and math.isclose(seconds % 60, 0) else f"{seconds:g} s"
