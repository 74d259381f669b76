"""A run: messages in, events on the way, one result out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import check_model
from cnap_runner.model.durations import Duration
from cnap_runner.model.edge import EdgeModel
from cnap_runner.model.ids import TaskId

MAX_FILE_BYTES = 10 << 20
"""Largest attached file; it travels inside the prompt."""


class Attachment(EdgeModel):
    """A file sent along with a message: a path on the caller's side, or a name with its content."""

    path: Path | None = None
    """Read when the run is accepted; its last part is the file's name."""
    name: str | None = None
    content: bytes | None = None
    mime: str | None = None
    """Guessed from the name when left out."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.path is None) == (self.content is None) or (self.content is not None and not self.name):
            raise InvalidInput("an attached file is either a path, or a name with its content.")
        if self.content is not None and len(self.content) > MAX_FILE_BYTES:
            raise InvalidInput(
                f"{self.name} is larger than {MAX_FILE_BYTES >> 20} MiB; put it into the workspace instead."
            )
        return self


class Message(EdgeModel):
    """One message of a task's conversation."""

    role: Literal["user", "assistant", "system"]
    content: str = Field(max_length=4 << 20)
    files: tuple[Attachment, ...] = ()
    """Only on user messages. A plain path may stand for an `Attachment`."""

    @field_validator("files", mode="before")
    @classmethod
    def _paths_stand_for_files(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple({"path": item} if isinstance(item, str | Path) else item for item in value)
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.role == "user" and not self.content.strip() and not self.files:
            raise InvalidInput("a user message needs text or a file.")
        if self.role != "user" and self.files:
            raise InvalidInput("only user messages carry files.")
        if "\x00" in self.content:
            raise InvalidInput("a message cannot contain NUL characters.")
        return self


class RunRequest(EdgeModel):
    """What one run is asked to do."""

    messages: tuple[Message, ...] = Field(min_length=1)
    """The conversation so far. Sent are the user messages after the last assistant one; the session remembers the rest."""
    task_id: TaskId = "main"
    model: str | None = None
    """For this run alone; the agent's own when left out."""
    system_prompt: str | None = None
    """For this run alone. System messages among ``messages`` are added to it."""
    timeout: Duration | None = None
    """Longest time from the call to its end, waiting and start included."""
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)
    """The same key with the same request attaches to the run or returns its result."""
    on_interrupt: Literal["fail", "resume"] = "fail"
    """What becomes of a turn whose instance dies: it fails, or the agent is told in the same session what happened and goes on."""
    wait: bool = True
    """False: `RunInProgress` where the agent has an unfinished run."""

    @field_validator("model")
    @classmethod
    def _model_names_provider(cls, value: str | None) -> str | None:
        return value if value is None else check_model(value)

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if not self.to_send():
            raise InvalidInput("messages: nothing to send; the last message must be a user's.")
        return self

    def to_send(self) -> tuple[Message, ...]:
        """The user messages after the last assistant one."""
        fresh: list[Message] = []
        for message in self.messages:
            if message.role == "assistant":
                fresh.clear()
            elif message.role == "user":
                fresh.append(message)
        return tuple(fresh)

    def system_text(self) -> str | None:
        """The system prompt of this run: the field, then the system messages."""
        parts = [self.system_prompt or "", *(m.content for m in self.messages if m.role == "system")]
        return "\n\n".join(part for part in parts if part) or None

    def fingerprint(self) -> str:
        """Hash that tells whether two requests ask for the same. How long to wait and the key itself do not count."""
        data = self.model_dump(mode="python", include={"messages", "task_id", "model", "system_prompt", "on_interrupt"})
        return hashlib.sha256(json.dumps(data, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


class RunState(StrEnum):
    """Where a run's ledger entry stands."""

    QUEUED = "queued"
    """Waits for its place in the agent's queue."""
    STARTING = "starting"
    """At the head of the queue, with the lease; its instance is being made ready."""
    SENDING = "sending"
    """The prompt may be on its way. From here on it is never sent again."""
    RUNNING = "running"
    """The server took the prompt."""
    ENDED = "ended"

    @property
    def is_sent(self) -> bool:
        """Whether the prompt may have left."""
        return self in {RunState.SENDING, RunState.RUNNING}


RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.STARTING, RunState.ENDED}),
    RunState.STARTING: frozenset({RunState.SENDING, RunState.ENDED}),
    RunState.SENDING: frozenset({RunState.RUNNING, RunState.ENDED}),
    RunState.RUNNING: frozenset({RunState.SENDING, RunState.ENDED}),
    RunState.ENDED: frozenset({RunState.QUEUED}),
}
"""An ended entry is queued again only when it ended as ``not_sent`` and its idempotency key is used once more. One that runs is sent to again
only where its turn was interrupted and it is to be resumed: with another prompt, which says so."""


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"
    """Its messages cannot be read any more. Never used for success."""


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run did not succeed."""

    code: str
    """Stable, for programs: ``provider_error``, ``not_sent``, ``not_started``, ``instance_died``, ``aborted``, ``timed_out`` …"""
    message: str
    retryable: bool = False
    tool: str | None = None
    """The tool that ran when the turn was interrupted."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost of a run, summed over its model calls, as OpenCode counts them."""

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float = 0.0
    """In the provider's currency, US dollars as a rule; 0 where OpenCode knows no price."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one run ended."""

    run_id: str
    agent_id: str
    task_id: str
    outcome: Outcome
    started_at: datetime
    """When the run was accepted."""
    duration: timedelta
    """From acceptance to the end."""
    session_id: str | None = None
    output: str = ""
    """The final assistant text; what there was of it where the run did not succeed."""
    error: RunError | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None

    @property
    def success(self) -> bool:
        """Whether the outcome is ``succeeded``."""
        return self.outcome is Outcome.SUCCEEDED


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One entry of the run ledger."""

    run_id: str
    agent_id: str
    task_id: str
    place: int
    """Position in the ledger; turns of one agent run in this order."""
    state: RunState
    owner: str
    """Id of the manager whose coroutine drives it."""
    fingerprint: str
    created_at: datetime
    idempotency_key: str | None = None
    session_id: str | None = None
    instance_id: str | None = None
    after_message_id: str | None = None
    """The session's last message before the prompt was sent; None for an empty session."""
    model: str | None = None
    sent_at: datetime | None = None
    ended_at: datetime | None = None
    result: RunResult | None = None
    on_interrupt: str = "fail"
    """As in its `RunRequest`."""
    resumes: int = 0
    """How often the agent was told to go on after an interruption."""
    resumed_after: str | None = None
    """The session's last message before it was told so last."""

    @property
    def turn_after(self) -> str | None:
        """The message after which the latest prompt of this run is."""
        return self.after_message_id if self.resumed_after is None else self.resumed_after
