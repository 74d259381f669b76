"""StatusCallback, and the one place that calls it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from cnap_runner.errors import RunnerError
from cnap_runner.model.events import MessageCompleted, RunEnded, RunEvent, StatusChanged
from cnap_runner.model.run import RunResult, RunState
from cnap_runner.telemetry.logging import get_logger

Emit = Callable[[RunEvent], Awaitable[None]]

_log = get_logger(__name__)


class StatusCallback(Protocol):
    """What a caller may want to be told while a run goes on. Subclass it and override what you need; the rest does nothing.

    Calls come one at a time, in order, from the event loop of the run; one that takes long holds the run's events up. One that
    raises is logged and never breaks the run. None may wait for the end of its own run, as `Runner.abort` does. Exactly one of ``on_complete`` and ``on_error`` ends a run.
    """

    async def on_status_change(self, task_id: str, status: RunState, /) -> None:
        """The run's ledger entry moved on."""
        return

    async def on_event(self, task_id: str, event: RunEvent, /) -> None:
        """Every event, the text fragments too; the last is `RunEnded`."""
        return

    async def on_message(self, task_id: str, text: str, /) -> None:
        """One whole message of the assistant; a turn that uses tools has several."""
        return

    async def on_complete(self, task_id: str, result: RunResult, /) -> None:
        """The run ended with this result, whatever its outcome."""
        return

    async def on_error(self, task_id: str, error: RunnerError, /) -> None:
        """The run was refused or failed before its prompt was sent; ``run()`` raises the same error."""
        return


class Audience:
    """Tells one run's events to its callback and to its stream."""

    def __init__(self, task_id: str, callback: StatusCallback | None = None, sink: Emit | None = None) -> None:
        self._task_id = task_id
        self._callback = callback
        self._sink = sink

    async def tell(self, event: RunEvent) -> None:
        """Hand one event on."""
        if self._sink is not None:
            await self._sink(event)
        await self._call("on_event", event)
        if isinstance(event, StatusChanged):
            await self._call("on_status_change", event.state)
        elif isinstance(event, MessageCompleted):
            await self._call("on_message", event.text)
        elif isinstance(event, RunEnded):
            await self._call("on_complete", event.result)

    async def refuse(self, error: RunnerError) -> None:
        """Tell that the run ended without a result."""
        await self._call("on_error", error)

    async def _call(self, name: str, value: object) -> None:
        # By name: an object that has only some of the methods, and is no subclass, is told what it can hear.
        call = getattr(self._callback, name, None)
        if call is None:
            return
        try:
            await call(self._task_id, value)
        except Exception:  # noqa: BLE001 - whatever a caller's code raises must not break the run
            _log.warning("callback_failed", task_id=self._task_id, callback=name, exc_info=True)
