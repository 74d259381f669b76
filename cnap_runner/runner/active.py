"""The runs whose coroutines live in this manager, and how they are interrupted from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import anyio

from cnap_runner.model.run import RunRecord


class Interruption(StrEnum):
    """Why a run is left before its own end."""

    ABORTED = "aborted"
    """Somebody wished so, or the manager closes."""
    DIED = "died"
    """Its instance ended."""
    TIMED_OUT = "timed_out"


@dataclass(eq=False, slots=True)
class ActiveRun:
    """One run driven by a coroutine of this manager."""

    run: RunRecord
    instance_id: str | None = None
    """Set while the run depends on this instance."""
    interruption: Interruption | None = None
    reason: str = ""
    ended: anyio.Event = field(default_factory=anyio.Event)
    _scope: anyio.CancelScope | None = None

    def interrupt(self, interruption: Interruption, reason: str) -> None:
        """Make the run leave what it is doing. The first interruption counts, except that a death overrides an abort."""
        if self.interruption is None or interruption is Interruption.DIED:
            self.interruption, self.reason = interruption, reason
        if self._scope is not None:
            self._scope.cancel()

    @contextlib.contextmanager
    def interruptible(self, deadline: float | None) -> Iterator[anyio.CancelScope]:
        """A stretch of the run that `interrupt` and the deadline (of the event loop's clock) leave early."""
        with anyio.CancelScope(deadline=float("inf") if deadline is None else deadline) as scope:
            self._scope = scope
            if self.interruption is not None:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scope = None
        if scope.cancelled_caught and self.interruption is None:
            self.interruption, self.reason = Interruption.TIMED_OUT, "its time was over"


class ActiveRuns:
    """All active runs of one manager, by run id."""

    def __init__(self) -> None:
        self._runs: dict[str, ActiveRun] = {}
        self._changed: dict[str, anyio.Event] = {}

    def __iter__(self) -> Iterator[ActiveRun]:
        return iter(list(self._runs.values()))

    def get(self, run_id: str) -> ActiveRun | None:
        """Return the active run of this id, if its coroutine lives here."""
        return self._runs.get(run_id)

    @contextlib.contextmanager
    def register(self, run: RunRecord) -> Iterator[ActiveRun]:
        """Count a run as active; waiters of its agent are woken at its end."""
        active = self._runs[run.run_id] = ActiveRun(run)
        try:
            yield active
        finally:
            del self._runs[run.run_id]
            active.ended.set()
            self.wake(run.agent_id)

    def wake(self, agent_id: str) -> None:
        """Wake those who wait for a change of this agent."""
        if (event := self._changed.pop(agent_id, None)) is not None:
            event.set()

    async def wait_for_change(self, agent_id: str, *, at_most: float) -> None:
        """Wait until a run of this agent ends here, or so many seconds: changes by other processes are found by looking again."""
        event = self._changed.setdefault(agent_id, anyio.Event())
        with anyio.move_on_after(at_most):
            await event.wait()

    def instance_died(self, instance_id: str, reason: str) -> None:
        """Interrupt the runs that depend on an instance."""
        for active in self:
            if active.instance_id == instance_id:
                active.interrupt(Interruption.DIED, reason)
