"""How much of the disk agents take and how much is left, as it was measured last, and measured anew where that is too long ago.

Measuring goes through all of an agent's files, so it happens beside the turns, and at most a twentieth of the time is spent on it
(`pause_between_measurements`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.decisions.disk import DiskFinding, DiskLimits, judge_disk, pause_between_measurements
from cnap_runner.model.figures import DiskMeasured
from cnap_runner.runner.install import Install
from cnap_runner.runner.workspaces.disk import DiskUse, free_bytes, measure
from cnap_runner.runner.workspaces.folders import AgentFolders, folder_error
from cnap_runner.runner.workspaces.quota_words import advice, full_disk, over_limit
from cnap_runner.telemetry.logging import get_logger

BELIEVED_SECONDS = 60.0
"""Longest time that a measurement is believed while nobody works; a process in the background may write."""
MEASURED_AT_ONCE = 2

_log = get_logger(__name__)


@dataclass(slots=True)
class Gauged:
    """What is known of one agent's use of the disk. Times are the event loop's."""

    agent_id: str
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
class Gauge:
    """Measures the agents of one manager, and the disk they share."""

    install: Install
    tasks: TaskGroup
    free: int = 0
    """Bytes that the disk had left when it was looked at last."""
    _agents: dict[str, Gauged] = field(default_factory=dict)
    _looked: float = -math.inf
    _limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(MEASURED_AT_ONCE))

    def __iter__(self) -> Iterator[Gauged]:
        return iter(list(self._agents.values()))

    def agent(self, agent_id: str) -> Gauged:
        """Give what is known of an agent, if only that nothing is."""
        return self._agents.setdefault(agent_id, Gauged(agent_id))

    def limits_of(self, spec: AgentSpec) -> DiskLimits:
        """Tell what an agent may take."""
        settings = self.install.settings
        return DiskLimits.of(
            disk_mb=spec.resources.disk_mb or settings.disk_mb,
            ceiling_percent=settings.disk_ceiling_percent,
            reserve_mb=settings.host_reserve_mb,
        )

    def judge(self, agent: Gauged) -> DiskFinding:
        """Tell what it means, as far as it was measured."""
        if agent.limits is None:
            return DiskFinding.FINE
        return judge_disk(agent.use.total if agent.use else 0, self.free, agent.limits)

    def words(self, agent: Gauged, finding: DiskFinding) -> str:
        """Say which limit is passed, and by what."""
        if agent.limits is None or finding is DiskFinding.DISK_NEARLY_FULL:
            reserve = agent.limits.reserve if agent.limits else 0
            return full_disk(self.install.settings.data_dir, free=self.free, reserve=reserve)
        return over_limit(agent.agent_id, agent.use or DiskUse(), agent.limits, finding)

    def advice(self, agent: Gauged, finding: DiskFinding) -> str:
        """Say what can be done about it."""
        return advice(AgentFolders(self.install.settings.data_dir, agent.agent_id), finding)

    async def look(self, *, at_most_old: float) -> None:
        """Find out how much the disk has left, unless that was done within so many seconds."""
        now = anyio.current_time()
        if now - self._looked >= at_most_old:
            data_dir = self.install.settings.data_dir
            try:
                self.free = await anyio.to_thread.run_sync(free_bytes, data_dir)
            except OSError as error:
                raise folder_error(data_dir, error) from error
            self._looked = now

    def begin(self, agent: Gauged) -> anyio.Event:
        """Begin a measurement, in a task of the manager; its end sets the event."""
        ended = agent.under_way = anyio.Event()
        self.tasks.start_soon(self._measure, agent, ended)
        return ended

    async def measure_anew(self, agent: Gauged) -> None:
        """Wait for a measurement that begins now. One under way may have passed by what changed since."""
        if agent.under_way is not None:
            await agent.under_way.wait()
        await (agent.under_way or self.begin(agent)).wait()

    def figures(self) -> list[DiskMeasured]:
        """Tell what the agents' files took when they were measured last, as far as they were."""
        return [
            DiskMeasured(agent_id, agent.use.total, agent.limits.quota)
            for agent_id, agent in sorted(self._agents.items())
            if agent.use is not None and agent.limits is not None
        ]

    async def _measure(self, agent: Gauged, ended: anyio.Event) -> None:
        began = anyio.current_time()
        try:
            agent.use = await measure(AgentFolders(self.install.settings.data_dir, agent.agent_id), self._limiter)
            if not agent.use.is_complete:
                _log.info("disk_use_incomplete", agent_id=agent.agent_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the manager
            _log.warning("disk_use_unknown", agent_id=agent.agent_id, error=str(error))
        finally:
            agent.began, agent.under_way = began, None
            ended.set()
