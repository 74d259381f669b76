"""What a fake turn does: its steps, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, init=False)
class Say:
    """One text part, streamed in these pieces."""

    pieces: tuple[str, ...]

    def __init__(self, *pieces: str) -> None:
        object.__setattr__(self, "pieces", pieces)


@dataclass(frozen=True, slots=True, init=False)
class Think:
    """One reasoning part, streamed in these pieces."""

    pieces: tuple[str, ...]

    def __init__(self, *pieces: str) -> None:
        object.__setattr__(self, "pieces", pieces)


@dataclass(frozen=True, slots=True)
class UseTool:
    """One call of a tool. It ends the assistant message, as in a real turn."""

    tool: str = "bash"
    input: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    progress: tuple[str, ...] = ()
    """What it said so far, each time more."""
    error: str | None = None
    """Set: the call fails with it."""
    is_endless: bool = False
    """It runs until the turn is aborted, or its server is killed."""


@dataclass(frozen=True, slots=True)
class Edit:
    """``file.edited`` of a path."""

    path: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A permission is raised; the turn waits for the reply only if told to."""

    permission: str
    patterns: tuple[str, ...] = ()
    is_waiting: bool = False


@dataclass(frozen=True, slots=True, init=False)
class AskQuestion:
    """The agent asks these questions, and the turn waits for the answers."""

    questions: tuple[str, ...]

    def __init__(self, *questions: str) -> None:
        object.__setattr__(self, "questions", questions)


@dataclass(frozen=True, slots=True)
class Retry:
    """The session's status tells that the model is called again."""

    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Waits until `FakeOpenCode.release` is called, or the turn is aborted."""


@dataclass(frozen=True, slots=True)
class DropStreams:
    """All event streams break here. New ones may be opened."""


@dataclass(frozen=True, slots=True)
class MuteStreams:
    """Streams that are open at this point say nothing any more; they stay open."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The answer ends here with this ``finish`` instead of ``stop``."""

    finish: str = "length"


@dataclass(frozen=True, slots=True)
class Break:
    """The model's stream broke off: the message ends with ``finish: unknown``, and the model is asked again."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The turn ends with this error in its assistant message. The session is idle a moment before the message says so."""

    message: str = "the provider failed"
    status: int | None = 500
    is_retryable: bool = False
    name: str = "APIError"


@dataclass(frozen=True, slots=True)
class FailUnanswered:
    """As the first step: the turn ends with a ``session.error`` and no assistant message, as for an unknown model."""

    message: str = "Model not found: test/nope."
    name: str = "UnknownError"


Step = (
    Say
    | Think
    | UseTool
    | Edit
    | Ask
    | AskQuestion
    | Retry
    | Hold
    | DropStreams
    | MuteStreams
    | Cut
    | Break
    | Fail
    | FailUnanswered
)
