"""A run's events without secrets, before anybody hears them."""

from __future__ import annotations

from dataclasses import replace

from cnap_runner.model.events import (
    FileEdited,
    MessageCompleted,
    ModelRetrying,
    PermissionRaised,
    QuestionRaised,
    ReasoningDelta,
    RunEvent,
    TextDelta,
    ToolFailed,
    ToolFinished,
    ToolProgress,
    ToolStarted,
)
from cnap_runner.runner.turns.callbacks import Emit
from cnap_runner.telemetry.redaction import Redactor, StreamRedactor


class RedactedEvents:
    """Hands a run's events on without secrets; one that deltas part is found too.

    What could be the beginning of a known secret is held back until more of it comes, at the latest until its message is complete.
    """

    def __init__(self, redactor: Redactor, emit: Emit) -> None:
        self._redactor = redactor
        self._emit = emit
        self._parts: dict[str, tuple[StreamRedactor, TextDelta | ReasoningDelta]] = {}

    async def tell(self, event: RunEvent) -> None:
        """Hand one event on, or hold back the end of its text."""
        if isinstance(event, TextDelta | ReasoningDelta):
            await self._tell_delta(event)
            return
        await self._flush()
        await self._emit(self._without_secrets(event))

    async def _tell_delta(self, delta: TextDelta | ReasoningDelta) -> None:
        stream, _ = self._parts.get(delta.part_id) or (self._redactor.stream(), delta)
        self._parts[delta.part_id] = stream, delta
        text = stream.feed(delta.text)
        if text:
            await self._emit(delta if text == delta.text else replace(delta, text=text))

    async def _flush(self) -> None:
        if not self._parts:
            return
        parts, self._parts = self._parts, {}
        for stream, delta in parts.values():
            if rest := stream.flush():
                await self._emit(replace(delta, text=rest))

    def _without_secrets(self, event: RunEvent) -> RunEvent:
        redact = self._redactor.redact
        match event:
            case MessageCompleted():
                return replace(event, text=redact(event.text))
            case ToolStarted():
                return replace(
                    event, input=self._redactor.redact_data(event.input), title=redact(event.title or "") or None
                )
            case ToolProgress():
                return replace(event, output=redact(event.output))
            case ToolFinished():
                return replace(event, output=redact(event.output), title=redact(event.title or "") or None)
            case ToolFailed():
                return replace(event, error=redact(event.error))
            case ModelRetrying():
                return replace(event, message=redact(event.message))
            case FileEdited():
                return replace(event, path=redact(event.path))
            case PermissionRaised():
                details = self._redactor.redact_data(event.details)
                return replace(event, patterns=tuple(map(redact, event.patterns)), details=details)
            case QuestionRaised():
                return replace(event, questions=tuple(map(self._redactor.redact_data, event.questions)))
            case _:
                return event
