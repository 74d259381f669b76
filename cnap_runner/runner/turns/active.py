"""The runs whose coroutines live in this manager, and how they are interrupted from outside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType

import anyio

from cnap_runner.aio.keyed_lock import KeyedLock
from cnap_runner.model.run import RunRecord, RunState
from cnap_runner.model.runner import RunnerRecord


class Interruption(StrEnum):
    """Why a run is left before its own end."""

    ABORTED = "aborted"
    """Somebody wished so, or the manager closes."""
    DIED = "died"
    """Its instance ended."""
    QUOTA = "quota"
    """Its agent took more of the disk than it may."""
    TIMED_OUT = "timed_out"


@dataclass(eq=False, slots=True)
class ActiveRun:
    """One run driven by a coroutine of this manager."""

    run: RunRecord
    has_caller: bool = True
    """Whether somebody waits for it here. An abandoned run that is settled has none: another manager may do that as well."""
    instance_id: str | None = None
    """Set while the run depends on this instance."""
    was_ready: RunnerRecord | None = None
    """The runner as it was when the entry was written, if with it was written that the prompt is about to leave."""
    never_left: bool = False
    """Whether it is certain that no prompt of it was sent, whatever is written of it."""
    interruption: Interruption | None = None
    reason: str = ""
    is_out_of_memory: bool = False
    """Whether its instance died for want of memory."""
    open_tools: dict[str, str] = field(default_factory=dict)
    """Tools that run, by their calls, as far as they were told."""
    ended: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope | None = None
    """Of the stretch the run is in."""

    def interrupt(self, interruption: Interruption, reason: str) -> None:
        """Make the run leave what it is doing. The first interruption counts, except that a death overrides an abort."""
        if self.interruption is None or interruption is Interruption.DIED:
            self.interruption, self.reason = interruption, reason
        if self.scope is not None:
            self.scope.cancel()

    def interruptible(self, deadline: float | None) -> Stretch:
        """A stretch of the run that `interrupt` and the deadline (of the event loop's clock) leave early."""
        return Stretch(self, deadline)


class Stretch:
    """The body of the ``with`` is left early when its run is interrupted; `ActiveRun.interruption` tells why."""

    def __init__(self, active: ActiveRun, deadline: float | None) -> None:
        self._active = active
        self._scope = anyio.CancelScope(deadline=math.inf if deadline is None else deadline)

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._active.scope = self._scope
        if self._active.interruption is not None:
            self._scope.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._active.scope = None
        is_left_early = bool(self._scope.__exit__(kind, error, trace))
        if is_left_early and self._active.interruption is None:
            self._active.interruption, self._active.reason = Interruption.TIMED_OUT, "its time was over"
        return is_left_early


class ActiveRuns:
    """All active runs of one manager, by run id."""

    def __init__(self) -> None:
        self._runs: dict[str, ActiveRun] = {}
        self._changed: dict[str, anyio.Event] = {}
        self._never_left: set[int] = set()
        """Places of entries that could not be ended in time, though it is certain that no prompt of them was sent."""
        self.entering: KeyedLock[str] = KeyedLock()
        """Held, by agent, from before an entry becomes ours until its run is counted as active: in between it would look abandoned."""

    def __iter__(self) -> Iterator[ActiveRun]:
        return iter(list(self._runs.values()))

    def get(self, run_id: str) -> ActiveRun | None:
        """Return the active run of this id, if its coroutine lives here."""
        return self._runs.get(run_id)

    def add(self, run: RunRecord, *, has_caller: bool = True) -> ActiveRun:
        """Count a run as active. Under the agent's lock of `entering`, in which its entry was made ours."""
        active = self._runs[run.run_id] = ActiveRun(run, has_caller)
        active.never_left = run.place in self._never_left
        return active

    def remove(self, active: ActiveRun) -> None:
        """Count a run as active no more, and wake those who wait for a change of its agent."""
        run = active.run
        if self._runs.get(run.run_id) is active:  # else it is under way again, under its key
            del self._runs[run.run_id]
        if active.never_left and run.state is not RunState.ENDED:
            self._never_left.add(run.place)
        else:
            self._never_left.discard(run.place)
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

    def instance_died(self, instance_id: str, reason: str, *, is_out_of_memory: bool = False) -> None:
        """Interrupt the runs that depend on an instance."""
        for active in self:
            if active.instance_id == instance_id:
                active.is_out_of_memory = active.is_out_of_memory or is_out_of_memory
                active.interrupt(Interruption.DIED, reason)
