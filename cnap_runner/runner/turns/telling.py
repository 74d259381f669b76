"""What a run tells its caller, and what of that is kept for the case that the turn is cut off."""

from __future__ import annotations

from cnap_runner.model.events import RunEvent, StatusChanged, TextDelta, ToolFailed, ToolFinished, ToolStarted
from cnap_runner.model.run import RunState
from cnap_runner.runner.secrecy.events import RedactedEvents
from cnap_runner.runner.turns.active import ActiveRun


class Telling:
    """Hands the events of one run on."""

    def __init__(self, active: ActiveRun, events: RedactedEvents) -> None:
        self.heard: list[str] = []
        """The text of the message under way."""
        self._active = active
        self._events = events
        self._heard_of: str | None = None

    async def tell(self, event: RunEvent) -> None:
        """Hand an event on."""
        await self._events.tell(event)

    async def tell_state(self, state: RunState) -> None:
        """Say that the run has come to another state."""
        await self._events.tell(StatusChanged(state))

    async def hear(self, event: RunEvent) -> None:
        """Keep the text of the message under way and the tools that run, and hand the event on."""
        if isinstance(event, TextDelta):
            if event.message_id != self._heard_of:
                self.heard, self._heard_of = [], event.message_id
            self.heard.append(event.text)
        elif isinstance(event, ToolStarted):
            self._active.open_tools[event.call_id] = event.tool
        elif isinstance(event, ToolFinished | ToolFailed):
            self._active.open_tools.pop(event.call_id, None)
        await self._events.tell(event)
