"""What agents may take of the disk: asked before each turn, watched during it.

What was measured last is believed for a while; a refusal is always measured anew. During a turn the disk's free space is looked at each
second.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskGroup

from cnap_runner.errors import QuotaExceeded
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.decisions.disk import MIB, DiskFinding
from cnap_runner.model.figures import DiskMeasured
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.turns.active import ActiveRun, ActiveRuns
from cnap_runner.runner.workspaces.gauge import Gauge, Gauged
from cnap_runner.runner.workspaces.halting import ENDING, Halting, Stop

LOOK_SECONDS = 1.0
"""How often the disk is looked at while turns run."""
IDLE_LOOK_SECONDS = 5.0
"""How often while none runs: what an agent left running in the background may write."""
NOTICED_BYTES = 256 * MIB
"""What the disk must lose for agents between turns to be measured."""
FIRST_PATIENCE = 20.0
"""Seconds a turn waits for the first measurement of its agent. One that takes longer is not waited for."""
PATIENCE = 0.5
"""Seconds a turn waits for a later one; then what was measured before counts, and the watch sees the rest."""


class Quota:
    """Keeps the agents of one manager within their limits."""

    def __init__(self, install: Install, active: ActiveRuns, tasks: TaskGroup, stop: Stop) -> None:
        self._install = install
        self._active = active
        self._tasks = tasks
        self._gauge = Gauge(install, tasks)
        self._halting = Halting(install, self._gauge, stop)
        self._free_when_fine = 0
        """The most that was free since agents between turns were measured for what the disk lost."""

    # --- before and after a turn ----------------------------------------------------------------------------------------

    async def check(self, spec: AgentSpec) -> None:
        """Raise `QuotaExceeded` where no turn of this agent may begin. Costs nothing where a measurement is at hand."""
        gauge, agent = self._gauge, self._gauge.agent(spec.agent_id)
        agent.limits = gauge.limits_of(spec)
        began = anyio.current_time()
        if not agent.is_believed(began):
            with anyio.move_on_after(FIRST_PATIENCE if agent.use is None else PATIENCE):
                await gauge.measure_anew(agent)
        await gauge.look(at_most_old=LOOK_SECONDS)
        if gauge.judge(agent) is DiskFinding.FINE:
            return
        if agent.began < began:  # somebody may have made room a moment ago
            await gauge.measure_anew(agent)
        await gauge.look(at_most_old=0)
        finding = gauge.judge(agent)
        if finding is not DiskFinding.FINE:
            raise QuotaExceeded(gauge.words(agent, finding), hint=gauge.advice(agent, finding))

    def turn_ended(self, agent_id: str) -> None:
        """Measure what a turn left behind, beside what comes next."""
        agent = self._gauge.agent(agent_id)
        agent.turn_ended = anyio.current_time()
        if agent.is_due(agent.turn_ended) and not self._tasks.cancel_scope.cancel_called:
            self._gauge.begin(agent)

    def measured(self) -> list[DiskMeasured]:
        """Tell what the agents' files took when they were measured last, as far as they were."""
        return self._gauge.figures()

    # --- during turns, and between them ---------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at the turns under way each second, and end those that pass a limit; less often at agents between turns. Runs until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            runs = [active for active in self._active if self._is_watched(active)]
            if runs:
                await self._gauge.look(at_most_old=0)
            for active in runs:
                await self._watch_one(active)
            await self._watch_idle()

    def _is_watched(self, active: ActiveRun) -> bool:
        is_at_work = active.run.state.is_sent and active.instance_id is not None and active.interruption is None
        return is_at_work and not self._halting.is_under_way(active.run.run_id)

    async def _watch_one(self, active: ActiveRun) -> None:
        agent = await self._limited(active.run.agent_id)
        if agent.is_due(anyio.current_time()):
            self._gauge.begin(agent)
        finding = self._gauge.judge(agent)
        if finding in ENDING:
            self._halting.end_turn(active, agent, finding)

    async def _limited(self, agent_id: str) -> Gauged:
        agent = self._gauge.agent(agent_id)
        if agent.limits is None:  # a turn that another manager began
            agent.limits = self._gauge.limits_of((await self._install.store.get_agent(agent_id)).spec)
        return agent

    async def _watch_idle(self) -> None:
        """Look for who fills the disk without a turn, once it has lost so much."""
        known = [(agent, self._install.known.get(agent.agent_id)) for agent in self._gauge]
        idle = [(agent, record) for agent, record in known if record and record.status is RunnerStatus.READY]
        if not idle:
            return
        await self._gauge.look(at_most_old=IDLE_LOOK_SECONDS)
        free = self._gauge.free
        self._free_when_fine = max(self._free_when_fine, free)
        if self._free_when_fine - free < NOTICED_BYTES:
            return
        self._free_when_fine = free
        for agent, record in idle:
            if record.instance_id is not None and not self._halting.is_under_way(record.instance_id):
                self._halting.judge_idle(agent, record.instance_id)
