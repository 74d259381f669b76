"""Turns that pass a limit of the disk are ended, and what goes on writing after that, or without a turn, is stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import anyio

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import RunnerError
from cnap_runner.model.decisions.disk import DiskFinding, is_growing
from cnap_runner.model.journal import DecisionKind
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.runner.workspaces.gauge import Gauge, Gauged
from cnap_runner.telemetry.logging import get_logger

SETTLE_SECONDS = 2.0
"""Between the two measurements that tell whether something goes on writing after its turn was ended."""
FREEZE = timedelta(seconds=10)
"""Longest time to freeze an instance, and to thaw it."""
ENDING = frozenset({DiskFinding.OVER_CEILING, DiskFinding.DISK_NEARLY_FULL})
"""What is not waited out."""

Stop = Callable[[str, str, str], Awaitable[None]]
"""Ends an agent's instance: agent id, instance id, reason."""

_log = get_logger(__name__)


@dataclass(slots=True)
class Halting:
    """Ends what passes a limit, each in a task of the manager."""

    install: Install
    gauge: Gauge
    stop: Stop
    _under_way: set[str] = field(default_factory=set)
    """Runs that are being ended, and instances between turns that are being judged."""

    def is_under_way(self, what: str) -> bool:
        """Whether this run is being ended already, or this instance judged."""
        return what in self._under_way

    def end_turn(self, active: ActiveRun, agent: Gauged, finding: DiskFinding) -> None:
        """Begin to end a turn."""
        self._under_way.add(active.run.run_id)
        self.gauge.tasks.start_soon(self._end_turn, active, agent, finding)

    def judge_idle(self, agent: Gauged, instance_id: str) -> None:
        """Begin to find out whether an instance writes beyond a limit without a turn, and to stop it then."""
        self._under_way.add(instance_id)
        self.gauge.tasks.start_soon(self._judge_idle, agent, instance_id)

    async def _end_turn(self, active: ActiveRun, agent: Gauged, finding: DiskFinding) -> None:
        """End a turn: its instance is frozen at once, so that nothing more is written while that is decided and told."""
        agent_id, instance_id = agent.agent_id, active.instance_id or ""
        reason = f"{self.gauge.words(agent, finding)} {self.gauge.advice(agent, finding)}".rstrip(".")
        try:
            await self._freeze_and_leave(active, reason)
            _log.warning("turn_over_quota", agent_id=agent_id, run_id=active.run.run_id, reason=reason)
            await active.ended.wait()
            if await self._goes_on(agent):
                await self.stop(
                    agent_id, instance_id, f"its processes went on writing after a turn was ended: {reason}"
                )
        except RunnerError as error:
            _log.warning("quota_not_kept", agent_id=agent_id, error=str(error))
        finally:
            self._under_way.discard(active.run.run_id)

    async def _judge_idle(self, agent: Gauged, instance_id: str) -> None:
        """Stop an instance that goes on writing beyond a limit, without a turn that could be aborted."""
        gauge, agent_id = self.gauge, agent.agent_id
        try:
            await gauge.measure_anew(agent)
            finding = gauge.judge(agent)
            if finding in ENDING and await self._goes_on(agent):
                words = gauge.words(agent, finding).rstrip(".")
                await self.stop(agent_id, instance_id, f"its processes went on writing without a turn: {words}")
        except RunnerError as error:
            _log.warning("quota_not_kept", agent_id=agent_id, error=str(error))
        finally:
            self._under_way.discard(instance_id)

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

    async def _goes_on(self, agent: Gauged) -> bool:
        """Whether something still writes although the turn has ended, and a limit is still passed."""
        gauge = self.gauge
        await gauge.measure_anew(agent)
        before = agent.use.total if agent.use else 0
        await anyio.sleep(SETTLE_SECONDS)
        await gauge.measure_anew(agent)
        await gauge.look(at_most_old=0)
        after = agent.use.total if agent.use else 0
        return is_growing(before, after) and gauge.judge(agent) is not DiskFinding.FINE
