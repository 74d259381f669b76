"""Collecting the output of all instances of an install, each by one manager at a time.

Following costs a connection and a task each, no thread. A manager follows the instances that it uses and, unless it is an observer, those
it finds without a collector. Whoever takes over goes on behind the last line in the agent's segments: nothing is there twice, and nothing is
missing that the engine still has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
from anyio.abc import TaskGroup

from cnap_runner.errors import InstanceNotFound, RunnerError, StoreBusy
from cnap_runner.model.counts import LOG_LINES_DROPPED
from cnap_runner.model.instance import InstanceRef
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.collectors.collector import Collector
from cnap_runner.runner.collectors.scribe import Scribe
from cnap_runner.runner.install import Install
from cnap_runner.store.presence import LogLock
from cnap_runner.telemetry.logging import get_logger

THREADS = 2
"""Threads that write for all agents together."""
TAKEN_PAUSE = timedelta(seconds=15)
"""Until it is looked again whether the manager that collects still does."""
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=30)
COMPLETE_LIMIT = timedelta(seconds=5)
"""Longest time that the removal of an instance waits for its last words."""
LOOK_AROUND = timedelta(seconds=30)
"""How often instances are looked for that other managers started and left."""
_LOOK_SECONDS = 0.05
_LIVE = frozenset({RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED})

_log = get_logger(__name__)


@dataclass(slots=True)
class _Following:
    agent_id: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    is_collecting: bool = False
    is_ending: anyio.Event = field(default_factory=anyio.Event)
    """The instance is to be removed: what it said is collected by whoever removes it, unless it is being collected just now."""


class LogCollectors:
    """The collectors of one manager. Nothing but `complete` waits for anything."""

    def __init__(self, install: Install, tasks: TaskGroup, learn: Callable[[str], Awaitable[None]]) -> None:
        """``tasks`` are the manager's; ``learn`` teaches the redactor an agent's secrets."""
        self._install = install
        self._tasks = tasks
        self._learn = learn
        self._scribe = Scribe(threads=THREADS)
        self._is_writing = False
        self._beginning = anyio.CapacityLimiter(THREADS)
        self._following: dict[str, _Following] = {}
        self.dropped = 0
        """Lines that this manager dropped: too many at once, or no room to write them."""

    @property
    def count(self) -> int:
        """Instances whose output this manager collects now."""
        return sum(following.is_collecting for following in self._following.values())

    def follow(self, agent_id: str, ref: InstanceRef) -> None:
        """Collect what a live instance writes, until it ends; where another manager does, take over if that one ends. Idempotent."""
        if ref.instance_id not in self._following:
            following = self._following[ref.instance_id] = _Following(agent_id)
            self._tasks.start_soon(self._follow, following, ref)

    async def follow_all(self) -> None:
        """Collect what the install's live instances write, whoever uses them. Runs until cancelled."""
        while True:
            for record in await self._install.store.list_runners(_LIVE):
                if record.ref is not None:
                    self.follow(record.agent_id, record.ref)
            await anyio.sleep(LOOK_AROUND.total_seconds())

    async def complete(self, agent_id: str, ref: InstanceRef) -> None:
        """Collect the output of an ended instance to its end, so that it may be removed; takes `COMPLETE_LIMIT` at most. Never raises a
        `RunnerError`: a log is no reason to keep an instance."""
        following = self._following.get(ref.instance_id)
        if following is not None:
            following.is_ending.set()
            if not following.is_collecting:
                following.scope.cancel()
        with anyio.move_on_after(COMPLETE_LIMIT.total_seconds()) as patience:
            if following is not None:
                await following.ended.wait()
            while not await self._collected(agent_id, ref):
                await anyio.sleep(_LOOK_SECONDS)
        if patience.cancelled_caught:
            _log.warning("log_not_complete", agent_id=agent_id, instance_id=ref.instance_id)

    async def _collected(self, agent_id: str, ref: InstanceRef) -> bool:
        """Collect what there is; False where another manager does it just now."""
        try:
            async with LogLock(self._install.settings.data_dir, agent_id):
                await self._learn(agent_id)
                await self._collector(agent_id, ref).collect(is_following=False)
        except StoreBusy:
            return False
        except InstanceNotFound:
            return True
        except RunnerError as error:
            _log.warning("log_not_complete", agent_id=agent_id, instance_id=ref.instance_id, error=str(error))
        return True

    async def _follow(self, following: _Following, ref: InstanceRef) -> None:
        try:
            with following.scope:
                await self._keep_following(following, ref)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the manager
            _log.warning("log_not_followed", agent_id=following.agent_id, error=repr(error))
        finally:
            del self._following[ref.instance_id]
            following.ended.set()

    async def _keep_following(self, following: _Following, ref: InstanceRef) -> None:
        """Follow until the instance has ended, again and again where the engine went away meanwhile."""
        pause = FIRST_PAUSE
        while True:
            began = anyio.current_time()
            try:
                async with AsyncExitStack() as stack:
                    async with self._beginning:
                        await stack.enter_async_context(LogLock(self._install.settings.data_dir, following.agent_id))
                        following.is_collecting = True
                        await self._learn(following.agent_id)
                    if await self._collector(following.agent_id, ref).collect(is_following=True):
                        return
            except StoreBusy:
                pause = TAKEN_PAUSE
            except InstanceNotFound:
                return
            except RunnerError as error:
                _log.info("log_interrupted", agent_id=following.agent_id, error=str(error))
            finally:
                following.is_collecting = False
            if anyio.current_time() - began > LONGEST_PAUSE.total_seconds():
                pause = FIRST_PAUSE
            with anyio.move_on_after(pause.total_seconds()):
                await following.is_ending.wait()
                return
            pause = min(pause * 2, LONGEST_PAUSE)

    def _collector(self, agent_id: str, ref: InstanceRef) -> Collector:
        if not self._is_writing:
            self._is_writing = True
            self._tasks.start_soon(self._scribe.run)
        return Collector(self._install, agent_id, ref, scribe=self._scribe, on_dropped=self._count_dropped)

    def _count_dropped(self, lines: int) -> None:
        self.dropped += lines
        for _ in range(lines):
            self._install.metrics.count(LOG_LINES_DROPPED)
