"""What agents may take of the disk: asked before each turn, watched during it.

Measuring goes through all of an agent's files, so it happens beside the turns and what was measured last is believed for a while: at most a
twentieth of the time is spent on it (`pause_between_measurements`). A refusal is always measured anew. During a turn the disk's free space
is looked at each second.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import QuotaExceeded, RunnerError
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.decisions.disk import (
    MIB,
    DiskFinding,
    DiskLimits,
    is_growing,
    judge_disk,
    pause_between_measurements,
)
from cnap_runner.model.figures import DiskMeasured
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.turns.active import ActiveRun, ActiveRuns, Interruption
from cnap_runner.runner.workspaces.disk import DiskUse, free_bytes, measure
from cnap_runner.runner.workspaces.folders import AgentFolders, folder_error
from cnap_runner.telemetry.logging import get_logger

LOOK_SECONDS = 1.0
"""How often the disk is looked at while turns run."""
IDLE_LOOK_SECONDS = 5.0
"""How often while none runs: what an agent left running in the background may write."""
NOTICED_BYTES = 256 * MIB
"""What the disk must lose for agents between turns to be measured."""
BELIEVED_SECONDS = 60.0
"""Longest time that a measurement is believed while nobody works; a process in the background may write."""
FIRST_PATIENCE = 20.0
"""Seconds a turn waits for the first measurement of its agent. One that takes longer is not waited for."""
PATIENCE = 0.5
"""Seconds a turn waits for a later one; then what was measured before counts, and the watch sees the rest."""
SETTLE_SECONDS = 2.0
"""Between the two measurements that tell whether something goes on writing after its turn was ended."""
FREEZE = timedelta(seconds=10)
"""Longest time to freeze an instance, and to thaw it."""
MEASURED_AT_ONCE = 2

_ENDING = frozenset({DiskFinding.OVER_CEILING, DiskFinding.DISK_NEARLY_FULL})
"""What is not waited out."""

Stop = Callable[[str, str, str], Awaitable[None]]
"""Ends an agent's instance: agent id, instance id, reason."""

_log = get_logger(__name__)


@dataclass(slots=True)
class _Agent:
    """What is known of one agent's use of the disk. Times are the event loop's."""

    use: DiskUse | None = None
    began: float = -math.inf
    """When the last measurement that ended was begun."""
    turn_ended: float = -math.inf
    limits: DiskLimits | None = None
    under_way: anyio.Event | None = None
    """Set when the measurement under way ends."""

    def is_believed(self, now: float) -> bool:
        """Whether nothing much can have changed, or it was measured too short a while ago to do so again."""
        if self.use is None or now - self.began > BELIEVED_SECONDS:
            return False
        return self.began >= self.turn_ended or not self.is_due(now)

    def is_due(self, now: float) -> bool:
        """Whether the next measurement may begin."""
        took = timedelta(0) if self.use is None else self.use.took
        return self.under_way is None and now - self.began >= pause_between_measurements(took).total_seconds()


@dataclass(slots=True)
class Quota:
    """Keeps the agents of one manager within their limits."""

    install: Install
    active: ActiveRuns
    tasks: TaskGroup
    stop: Stop
    _agents: dict[str, _Agent] = field(default_factory=dict)
    _free: int = 0
    _looked: float = -math.inf
    _free_when_fine: int = 0
    """The most that was free since agents between turns were measured for what the disk lost."""
    _halted: set[str] = field(default_factory=set)
    """Runs that are being ended, and instances between turns that are being judged."""
    _limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(MEASURED_AT_ONCE))

    # --- before a turn --------------------------------------------------------------------------------------------------

    async def check(self, spec: AgentSpec) -> None:
        """Raise `QuotaExceeded` where no turn of this agent may begin. Costs nothing where a measurement is at hand."""
        agent = self._agent(spec.agent_id)
        agent.limits = self._limits_of(spec)
        began = anyio.current_time()
        if not agent.is_believed(began):
            with anyio.move_on_after(FIRST_PATIENCE if agent.use is None else PATIENCE):
                await self._measured(spec.agent_id, agent)
        await self._look(at_most_old=LOOK_SECONDS)
        if self._judge(agent) is DiskFinding.FINE:
            return
        if agent.began < began:  # somebody may have made room a moment ago
            await self._measured(spec.agent_id, agent)
        await self._look(at_most_old=0)
        finding = self._judge(agent)
        if finding is not DiskFinding.FINE:
            raise QuotaExceeded(self._words(spec.agent_id, agent, finding), hint=self._advice(spec.agent_id, finding))

    def turn_ended(self, agent_id: str) -> None:
        """Measure what a turn left behind, beside what comes next."""
        agent = self._agent(agent_id)
        agent.turn_ended = anyio.current_time()
        if agent.is_due(agent.turn_ended) and not self.tasks.cancel_scope.cancel_called:
            self._begin(agent_id, agent)

    # --- during turns ---------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at the turns under way each second, and end those that pass a limit; less often at agents between turns. Runs until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            runs = [active for active in self.active if self._is_watched(active)]
            if runs:
                await self._look(at_most_old=0)
            for active in runs:
                await self._watch_one(active)
            await self._watch_idle()

    def _is_watched(self, active: ActiveRun) -> bool:
        is_at_work = active.run.state.is_sent and active.instance_id is not None and active.interruption is None
        return is_at_work and active.run.run_id not in self._halted

    async def _watch_one(self, active: ActiveRun) -> None:
        agent_id = active.run.agent_id
        agent = self._agent(agent_id)
        if agent.limits is None:  # a turn that another manager began
            agent.limits = self._limits_of((await self.install.store.get_agent(agent_id)).spec)
        if agent.is_due(anyio.current_time()):
            self._begin(agent_id, agent)
        finding = self._judge(agent)
        if finding in _ENDING:
            self._halted.add(active.run.run_id)
            self.tasks.start_soon(self._halt, active, agent, finding)

    async def _halt(self, active: ActiveRun, agent: _Agent, finding: DiskFinding) -> None:
        """End a turn: its instance is frozen at once, so that nothing more is written while that is decided and told."""
        agent_id, instance_id = active.run.agent_id, active.instance_id or ""
        reason = f"{self._words(agent_id, agent, finding)} {self._advice(agent_id, finding)}".rstrip(".")
        try:
            await self._freeze_and_leave(active, reason)
            _log.warning("turn_over_quota", agent_id=agent_id, run_id=active.run.run_id, reason=reason)
            await active.ended.wait()
            if await self._goes_on(agent_id, agent):
                await self.stop(
                    agent_id, instance_id, f"its processes went on writing after a turn was ended: {reason}"
                )
        except RunnerError as error:
            _log.warning("quota_not_kept", agent_id=agent_id, error=str(error))
        finally:
            self._halted.discard(active.run.run_id)

    # --- between turns --------------------------------------------------------------------------------------------------

    async def _watch_idle(self) -> None:
        """Look for who fills the disk without a turn, once it has lost so much."""
        known = [self.install.known.get(agent_id) for agent_id in self._agents]
        idle = [record for record in known if record is not None and record.status is RunnerStatus.READY]
        if not idle:
            return
        await self._look(at_most_old=IDLE_LOOK_SECONDS)
        self._free_when_fine = max(self._free_when_fine, self._free)
        if self._free_when_fine - self._free < NOTICED_BYTES:
            return
        self._free_when_fine = self._free
        for record in idle:
            if record.instance_id is not None and record.instance_id not in self._halted:
                self._halted.add(record.instance_id)
                self.tasks.start_soon(self._judge_idle, record.agent_id, record.instance_id)

    async def _judge_idle(self, agent_id: str, instance_id: str) -> None:
        """Stop an instance that goes on writing beyond a limit, without a turn that could be aborted."""
        agent = self._agent(agent_id)
        try:
            await self._measured(agent_id, agent)
            finding = self._judge(agent)
            if finding in _ENDING and await self._goes_on(agent_id, agent):
                words = self._words(agent_id, agent, finding).rstrip(".")
                await self.stop(agent_id, instance_id, f"its processes went on writing without a turn: {words}")
        except RunnerError as error:
            _log.warning("quota_not_kept", agent_id=agent_id, error=str(error))
        finally:
            self._halted.discard(instance_id)

    # --- ending ---------------------------------------------------------------------------------------------------------

    async def _freeze_and_leave(self, active: ActiveRun, reason: str) -> None:
        """Freeze, let the run know, and thaw: only a server that runs can abort its turn. The runner's status stays as it is."""
        backend, ref = self.install.backend, (await self.install.store.get_agent(active.run.agent_id)).runner.ref
        can_freeze = backend.capabilities.can_pause and ref is not None and ref.instance_id == active.instance_id
        try:
            if can_freeze and ref is not None:
                try:
                    async with shielded(FREEZE):
                        await backend.pause(ref)
                finally:
                    # Never left frozen, whatever comes in between; a freeze that is said to have failed may have happened.
                    async with shielded(FREEZE):
                        await backend.resume(ref)
        finally:
            active.interrupt(Interruption.QUOTA, reason)
        run = active.run
        await note(self.install, run.agent_id, DecisionKind.ABORTED_QUOTA, reason, {"run_id": run.run_id})

    async def _goes_on(self, agent_id: str, agent: _Agent) -> bool:
        """Whether something still writes although the turn has ended, and a limit is still passed."""
        await self._measured(agent_id, agent)
        before = agent.use.total if agent.use else 0
        await anyio.sleep(SETTLE_SECONDS)
        await self._measured(agent_id, agent)
        await self._look(at_most_old=0)
        after = agent.use.total if agent.use else 0
        return is_growing(before, after) and self._judge(agent) is not DiskFinding.FINE

    def measured(self) -> list[DiskMeasured]:
        """Tell what the agents' files took when they were measured last, as far as they were."""
        return [
            DiskMeasured(agent_id, agent.use.total, agent.limits.quota)
            for agent_id, agent in sorted(self._agents.items())
            if agent.use is not None and agent.limits is not None
        ]

    # --- looking --------------------------------------------------------------------------------------------------------

    def _agent(self, agent_id: str) -> _Agent:
        return self._agents.setdefault(agent_id, _Agent())

    def _limits_of(self, spec: AgentSpec) -> DiskLimits:
        settings = self.install.settings
        return DiskLimits.of(
            disk_mb=spec.resources.disk_mb or settings.disk_mb,
            ceiling_percent=settings.disk_ceiling_percent,
            reserve_mb=settings.host_reserve_mb,
        )

    def _judge(self, agent: _Agent) -> DiskFinding:
        if agent.limits is None:
            return DiskFinding.FINE
        return judge_disk(agent.use.total if agent.use else 0, self._free, agent.limits)

    async def _look(self, *, at_most_old: float) -> None:
        """Find out how much the disk has left."""
        now = anyio.current_time()
        if now - self._looked >= at_most_old:
            data_dir = self.install.settings.data_dir
            try:
                self._free = await anyio.to_thread.run_sync(free_bytes, data_dir)
            except OSError as error:
                raise folder_error(data_dir, error) from error
            self._looked = now

    def _begin(self, agent_id: str, agent: _Agent) -> anyio.Event:
        """Begin a measurement, in a task of the manager; its end sets the event."""
        ended = agent.under_way = anyio.Event()
        self.tasks.start_soon(self._measure, agent_id, agent, ended)
        return ended

    async def _measured(self, agent_id: str, agent: _Agent) -> None:
        """Wait for a measurement that begins now. One under way may have passed by what changed since."""
        if agent.under_way is not None:
            await agent.under_way.wait()
        await (agent.under_way or self._begin(agent_id, agent)).wait()

    async def _measure(self, agent_id: str, agent: _Agent, ended: anyio.Event) -> None:
        began = anyio.current_time()
        try:
            agent.use = await measure(AgentFolders(self.install.settings.data_dir, agent_id), self._limiter)
            if not agent.use.is_complete:
                _log.info("disk_use_incomplete", agent_id=agent_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the manager
            _log.warning("disk_use_unknown", agent_id=agent_id, error=str(error))
        finally:
            agent.began, agent.under_way = began, None
            ended.set()

    # --- telling --------------------------------------------------------------------------------------------------------

    def _words(self, agent_id: str, agent: _Agent, finding: DiskFinding) -> str:
        if agent.limits is None or finding is DiskFinding.DISK_NEARLY_FULL:
            reserve = agent.limits.reserve if agent.limits else 0
            folder = self.install.settings.data_dir
            return f"Only {in_words(self._free)} are left on the disk of {folder}, and agents must leave {in_words(reserve)}."
        use = agent.use or DiskUse()
        parts = f"workspace {in_words(use.workspace)}, sessions {in_words(use.state)}, home {in_words(use.home)}"
        if finding is DiskFinding.OVER_CEILING:
            limit = (
                f"its hard ceiling of {in_words(agent.limits.ceiling)} (its quota is {in_words(agent.limits.quota)})"
            )
        else:
            limit = f"its quota of {in_words(agent.limits.quota)}"
        return f"Agent {agent_id} uses {in_words(use.total)} ({parts}), more than {limit}."

    def _advice(self, agent_id: str, finding: DiskFinding) -> str:
        if finding is DiskFinding.DISK_NEARLY_FULL:
            return "Make room on it, or lower CNAP_RUNNER_HOST_RESERVE_MB."
        workspace = AgentFolders(self.install.settings.data_dir, agent_id).workspace
        return f"Remove files from {workspace}, or raise the agent's resources.disk_mb or CNAP_RUNNER_DISK_MB."


def in_words(size: int) -> str:
    """Write a number of bytes for people: ``12 MiB``, ``1.5 GiB``."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / MIB:.0f} MiB"
