"""Runs that nobody drives any more: found again and again, and settled in tasks of the manager, one per agent.

A settlement follows a turn for as long as that takes, so it belongs to nobody's call: who waits for it may give up, and it goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from cnap_runner.errors import RunnerError
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.runner.install import Install
from cnap_runner.runner.turns.active import ActiveRuns
from cnap_runner.telemetry.logging import about, get_logger

UNFINISHED = tuple(state for state in RunState if state is not RunState.ENDED)

Settle = Callable[[RunRecord], Awaitable[RunResult | None]]

_log = get_logger(__name__)


class Attempt:
    """One try to settle what is abandoned of an agent's queue."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._done = anyio.Event()

    def ended(self, error: Exception | None = None) -> None:
        """Tell those who wait that it is over, and what it failed with."""
        self._error = self._error or error
        self._done.set()

    def check(self) -> None:
        """Raise what it failed with; nothing while it goes on."""
        if self._error is not None:
            raise self._error

    async def wait(self) -> None:
        """Wait until it is over, and raise what it failed with."""
        await self._done.wait()
        self.check()


class AbandonedRuns:
    """Settles the runs of managers that were killed, and those of this manager whose coroutines are gone."""

    def __init__(self, install: Install, active: ActiveRuns, settle: Settle, tasks: TaskGroup) -> None:
        self._install = install
        self._active = active
        self._settle = settle
        self._tasks = tasks
        self._attempts: dict[str, Attempt] = {}

    def is_abandoned(self, run: RunRecord) -> bool:
        """Whether nobody drives this unfinished entry: its owner is dead, or it is ours and its coroutine is gone."""
        if run.owner == self._install.manager_id:
            return self._active.get(run.run_id) is None
        return not self._install.is_alive(run.owner)

    async def run(self) -> None:
        """Look for such runs now, and once in each ``sweep_interval`` until cancelled.

        Each manager looks by itself: which of its own runs have no coroutine, nobody else knows.
        """
        while True:
            await self.collect()
            await anyio.sleep(self._install.settings.sweep_interval.total_seconds())

    async def collect(self) -> None:
        """Begin to settle all that are there now."""
        unfinished = await self._install.store.list_runs(states=UNFINISHED)
        for agent_id in sorted({run.agent_id for run in unfinished if self.is_abandoned(run)}):
            self.begin(agent_id)

    def begin(self, agent_id: str) -> Attempt:
        """Begin to settle what is abandoned at the head of an agent's queue, unless that is under way; does not wait for it."""
        attempt = self._attempts.get(agent_id)
        if attempt is None:
            attempt = self._attempts[agent_id] = Attempt()
            self._tasks.start_soon(self._try, agent_id, attempt)
        return attempt

    async def _try(self, agent_id: str, attempt: Attempt) -> None:
        try:
            with about(**self._install.ids, agent_id=agent_id):
                await self._settle_heads(agent_id)
        except Exception as error:  # noqa: BLE001 - whatever it is: it is one agent's trouble, and those who wait are told
            told = self._install.redactor.redact(str(error))
            _log.warning("settlement_failed", error=told, exc_info=not isinstance(error, RunnerError))
            attempt.ended(error)
        finally:
            del self._attempts[agent_id]
            attempt.ended()
            self._active.wake(agent_id)

    async def _settle_heads(self, agent_id: str) -> None:
        """Settle entries at the head of the queue, until one that somebody drives is there, or has the lease."""
        while True:
            queue = await self._install.store.queue_of(agent_id)
            if not queue or not self.is_abandoned(queue[0]) or await self._settle(queue[0]) is None:
                return
