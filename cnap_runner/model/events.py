"""RunEvent: what a caller sees of a turn while it goes on. A closed union, told apart by ``type``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from cnap_runner.model.run import RunResult, RunState, Usage


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The run's ledger entry moved on."""

    state: RunState
    type: Literal["status"] = "status"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the assistant's text."""

    text: str
    message_id: str
    part_id: str
    type: Literal["text_delta"] = "text_delta"


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning."""

    text: str
    message_id: str
    part_id: str
    type: Literal["reasoning_delta"] = "reasoning_delta"


@dataclass(frozen=True, slots=True)
class MessageCompleted:
    """One assistant message is complete; a turn that uses tools has several."""

    text: str
    message_id: str
    type: Literal["message"] = "message"


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool runs."""

    tool: str
    call_id: str
    input: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    type: Literal["tool_started"] = "tool_started"


@dataclass(frozen=True, slots=True)
class ToolProgress:
    """A running tool said more; `output` is all it said so far."""

    tool: str
    call_id: str
    output: str
    type: Literal["tool_progress"] = "tool_progress"


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool ended well."""

    tool: str
    call_id: str
    output: str
    title: str | None = None
    type: Literal["tool_finished"] = "tool_finished"


@dataclass(frozen=True, slots=True)
class ToolFailed:
    """A tool ended with an error; the turn goes on."""

    tool: str
    call_id: str
    error: str
    type: Literal["tool_failed"] = "tool_failed"


@dataclass(frozen=True, slots=True)
class FileEdited:
    """The agent changed a file."""

    path: str
    """As the instance sees it."""
    type: Literal["file_edited"] = "file_edited"


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Tokens and cost of the run so far."""

    usage: Usage
    type: Literal["usage"] = "usage"


@dataclass(frozen=True, slots=True)
class ModelRetrying:
    """OpenCode calls the model again after an error of the provider."""

    attempt: int
    message: str
    type: Literal["retry"] = "retry"


@dataclass(frozen=True, slots=True)
class PermissionRaised:
    """The agent asks to be allowed something."""

    request_id: str
    permission: str
    patterns: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """What OpenCode says of it: the whole ``command``, the ``diff`` of an edit."""
    deadline: datetime | None = None
    """Until when somebody may reply (`Runner.answer`); None: the agent's rules do."""
    type: Literal["permission"] = "permission"


@dataclass(frozen=True, slots=True)
class QuestionRaised:
    """The agent asks a question."""

    request_id: str
    questions: tuple[Mapping[str, Any], ...] = ()
    deadline: datetime | None = None
    """Until when somebody may reply (`Runner.answer`); None: the agent's rules do."""
    type: Literal["question"] = "question"


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """A permission or question that was raised is answered, by whomever."""

    request_id: str
    reply: Literal["allow", "always", "reject", "answer"]
    type: Literal["answered"] = "answered"


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over. Always the last event, and always there."""

    result: RunResult
    type: Literal["ended"] = "ended"


RunEvent = (
    StatusChanged
    | TextDelta
    | ReasoningDelta
    | MessageCompleted
    | ToolStarted
    | ToolProgress
    | ToolFinished
    | ToolFailed
    | FileEdited
    | UsageReported
    | ModelRetrying
    | PermissionRaised
    | QuestionRaised
    | RequestAnswered
    | RunEnded
)
