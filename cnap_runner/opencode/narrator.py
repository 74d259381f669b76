"""Turns what the server tells, by its stream and by request, into a turn's `RunEvent`s: each thing once, nothing left out.

Deltas have no position, and the server stores a part's text only when the part ends. So a delta may be used only where the
stream told of its part's beginning and did not break since. Every other part waits for its whole text, of which the missing end
is told then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from cnap_runner.model.events import (
    FileEdited,
    MessageCompleted,
    ModelRetrying,
    PermissionRaised,
    QuestionRaised,
    ReasoningDelta,
    RequestAnswered,
    RunEvent,
    TextDelta,
    ToolFailed,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    UsageReported,
)
from cnap_runner.model.run import Usage
from cnap_runner.opencode.events import (
    FileChanged,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    PermissionAsked,
    QuestionAsked,
    RequestReplied,
    ServerEvent,
    SessionOpened,
    SessionStatus,
)
from cnap_runner.opencode.verdict import is_later
from cnap_runner.opencode.wire import Part, SessionMessage, ToolCall

Emit = Callable[[RunEvent], Awaitable[None]]

_TEXTUAL = frozenset({"text", "reasoning"})
_FINAL = frozenset({"completed", "error"})


@dataclass(slots=True)
class _Told:
    """What was told of one part with text."""

    kind: str
    text: str = ""
    is_hidden: bool = False
    is_in_step: bool = True
    """Whether the next delta continues what was told."""
    is_ended: bool = False


@dataclass(slots=True)
class _Answer:
    """What was told of one assistant message."""

    parts: dict[str, _Told] = field(default_factory=dict)
    has_tools: bool = False
    is_complete: bool = False

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts.values() if part.kind == "text" and not part.is_hidden)


class Narrator:
    """Tells one turn. Used for all of it, however often the stream is opened anew."""

    def __init__(self, emit: Emit, *, session_id: str, after_message_id: str | None) -> None:
        self._emit = emit
        self._session_id = session_id
        self._after = after_message_id
        self._family = {session_id}
        """The session and those of its subagents."""
        self._answers: dict[str, _Answer] = {}
        self._calls: dict[str, ToolCall] = {}
        self._raised: set[str] = set()
        self._answered: set[str] = set()
        self._usage = Usage()
        self.broken_answers = 0
        """How many answers in a row broke off before their end."""

    @property
    def heard(self) -> str:
        """The text of the last answer, as far as it was told."""
        return next((answer.text for answer in reversed(self._answers.values()) if answer.text), "")

    def stream_broke(self) -> None:
        """Deltas may be missing now: parts that have not ended wait for their whole text."""
        for answer in self._answers.values():
            for part in answer.parts.values():
                part.is_in_step = False

    async def hear(self, event: ServerEvent) -> None:
        """Tell what one event of the stream means for the turn; nothing for those of other sessions and turns."""
        match event:
            case PartDelta():
                await self._hear_delta(event)
            case PartUpdated(session_id, part):
                if session_id == self._session_id and part.message_id in self._answers:
                    await self._tell_part(self._answers[part.message_id], part)
            case MessageUpdated(session_id, message):
                if session_id == self._session_id:
                    await self._hear_message(message)
            case FileChanged(path):
                await self._emit(FileEdited(path))
            case SessionOpened(session_id, parent_id):
                if parent_id in self._family:
                    self._family.add(session_id)
            case SessionStatus() | PermissionAsked() | QuestionAsked():
                if event.session_id in self._family:
                    await self._hear_wait(event)
            case RequestReplied(_, request_id, reply):
                if request_id in self._raised - self._answered:
                    self._answered.add(request_id)
                    await self._emit(RequestAnswered(request_id, reply))

    async def read(self, messages: Iterable[SessionMessage], *, is_over: bool = False) -> None:
        """Tell what the turn's messages, read by request, hold that was not told. ``is_over``: nothing more will come of them."""
        for message in messages:
            if message.role != "assistant":
                continue
            answer = self._answers.setdefault(message.id, _Answer())
            for part in message.parts:
                # A part under way goes on in the stream; what is stored of it says nothing about where the stream stands.
                if is_over or part.is_ended or part.call is not None:
                    await self._tell_part(answer, part)
            if message.is_complete:
                await self._complete(message)

    async def read_waits(self, waits: Iterable[PermissionAsked | QuestionAsked]) -> None:
        """Tell what the turn waits for, read by request, if it was not told. Whether it is this turn's the caller knows."""
        for wait in waits:
            await self._hear_wait(wait)

    async def _hear_delta(self, delta: PartDelta) -> None:
        answer = self._answers.get(delta.message_id)
        part = None if answer is None else answer.parts.get(delta.part_id)
        if part is None or not part.is_in_step or part.is_ended:
            return
        part.text += delta.text
        await self._tell_text(part, delta.text, delta.message_id, delta.part_id)

    async def _hear_message(self, message: SessionMessage) -> None:
        if message.role != "assistant" or not is_later(message.id, self._after):
            return
        self._answers.setdefault(message.id, _Answer())
        if message.is_complete:
            await self._complete(message)

    async def _tell_part(self, answer: _Answer, part: Part) -> None:
        if part.call is not None:
            answer.has_tools = True
            await self._tell_call(part.call)
        elif part.kind in _TEXTUAL:
            told = answer.parts.setdefault(part.id, _Told(part.kind, is_hidden=part.is_hidden))
            await self._tell_rest(told, part)

    async def _tell_rest(self, told: _Told, part: Part) -> None:
        if told.is_ended:
            return
        told.is_ended = part.is_ended
        if not part.text.startswith(told.text):
            # Either older than what was told, or rewritten at its end: what was told cannot be taken back.
            return
        rest = part.text[len(told.text) :]
        told.text, told.is_in_step = part.text, True
        if rest:
            await self._tell_text(told, rest, part.message_id, part.id)

    async def _tell_text(self, part: _Told, text: str, message_id: str, part_id: str) -> None:
        if part.is_hidden:
            return
        kind = TextDelta if part.kind == "text" else ReasoningDelta
        await self._emit(kind(text, message_id=message_id, part_id=part_id))

    async def _tell_call(self, call: ToolCall) -> None:
        before = self._calls.get(call.call_id)
        if call.status not in {"running", *_FINAL} or (before is not None and before.status in _FINAL):
            return
        self._calls[call.call_id] = call
        if before is None:
            await self._emit(ToolStarted(call.tool, call.call_id, input=call.input, title=call.title))
        if call.status == "completed":
            await self._emit(ToolFinished(call.tool, call.call_id, output=call.output, title=call.title))
        elif call.status == "error":
            await self._emit(ToolFailed(call.tool, call.call_id, error=call.error))
        elif call.output and (before is None or before.output != call.output):
            await self._emit(ToolProgress(call.tool, call.call_id, output=call.output))

    async def _complete(self, message: SessionMessage) -> None:
        answer = self._answers[message.id]
        if answer.is_complete:
            return
        answer.is_complete = True
        is_broken = message.finish == "unknown" and not answer.has_tools
        self.broken_answers = self.broken_answers + 1 if is_broken else 0
        if message.error is None and message.finish is not None:
            await self._emit(MessageCompleted(message.text or answer.text, message_id=message.id))
        if message.usage != Usage():
            self._usage += message.usage
            await self._emit(UsageReported(self._usage))

    async def _hear_wait(self, event: SessionStatus | PermissionAsked | QuestionAsked) -> None:
        """Something that the turn waits for: the provider, a permission, an answer."""
        match event:
            case SessionStatus(_, "retry", attempt, message):
                await self._emit(ModelRetrying(attempt, message))
            case PermissionAsked(_, request_id, permission, patterns, details):
                if self._is_new(request_id):
                    await self._emit(PermissionRaised(request_id, permission, patterns, details))
            case QuestionAsked(_, request_id, questions):
                if self._is_new(request_id):
                    await self._emit(QuestionRaised(request_id, questions))

    def _is_new(self, request_id: str) -> bool:
        is_new = request_id not in self._raised
        self._raised.add(request_id)
        return is_new
