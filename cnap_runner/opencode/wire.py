"""OpenCode's JSON, parsed into values, and prompts made into JSON.

Parsing is tolerant, so that a newer server of the supported range does not break us: unknown fields are ignored, missing ones
get a default. What has another shape altogether raises `ServerRejected`. Shapes: docs/opencode.md.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cnap_runner.errors import ServerRejected
from cnap_runner.model.run import Usage

Json = Mapping[str, Any]

_OPEN_CALLS = frozenset({"pending", "running"})
INTERRUPTED_CALL = "Interrupted: "
"""How the error of a tool's call begins that we ended, because an interruption had left it open."""
LONGEST_MESSAGE = 2000
"""Characters kept of an error's text; some carry a whole response or a stack trace."""


@dataclass(frozen=True, slots=True)
class ProviderFailure:
    """An error as OpenCode reports it in a message's ``info.error`` and in ``session.error``."""

    name: str
    """OpenCode's word for it: ``APIError``, ``MessageAbortedError``, ``ContextOverflowError`` …"""
    message: str
    status: int | None = None
    """HTTP status of the provider's answer, where there was one."""
    is_retryable: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One state of one call of a tool."""

    tool: str
    call_id: str
    status: str
    """``pending`` (its input still comes), ``running``, ``completed`` or ``error``."""
    input: Json = field(default_factory=dict)
    output: str = ""
    """The result; while it runs, what it said so far."""
    error: str = ""
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a message. Its text is stored by the server when the part ends; until then only deltas carry it."""

    id: str
    message_id: str
    kind: str
    """``text``, ``reasoning``, ``tool``, ``step-start``, ``step-finish``, ``patch``, ``compaction`` …"""
    text: str = ""
    is_hidden: bool = False
    """Written by OpenCode itself, not by the model or the user."""
    is_ended: bool = False
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """One message of a session."""

    id: str
    role: str
    """``user`` or ``assistant``."""
    parent_id: str | None = None
    """Of an assistant message: the user message it answers."""
    created_at: datetime | None = None
    completed_at: datetime | None = None
    finish: str | None = None
    """Why the model stopped: ``stop``, ``tool-calls``, ``length``, ``content-filter``; ``unknown`` where it broke off."""
    error: ProviderFailure | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    """``provider/model``."""
    is_summary: bool = False
    """Made by OpenCode to shorten a long session, not an answer."""
    parts: tuple[Part, ...] = ()

    @property
    def text(self) -> str:
        """Its text parts joined, without those that OpenCode wrote itself."""
        return "".join(part.text for part in self.parts if part.kind == "text" and not part.is_hidden)

    @property
    def has_running_tool(self) -> bool:
        """Whether one of its tools has begun and not ended."""
        return any(part.call is not None and part.call.status == "running" for part in self.parts)

    @property
    def cut_off_tool(self) -> str | None:
        """The last of its tools that an interruption cut off: still open, or ended by `cnap_runner.opencode.repair`."""
        calls = [part.call for part in self.parts if part.call is not None]
        cut = [call.tool for call in calls if call.status in _OPEN_CALLS or call.error.startswith(INTERRUPTED_CALL)]
        return cut[-1] if cut else None

    @property
    def is_complete(self) -> bool:
        """Whether the server is done with it."""
        return self.completed_at is not None


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file that travels inside the prompt."""

    name: str
    mime: str
    content: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Make it a part whose URL carries the content."""
        data = base64.b64encode(self.content).decode("ascii")
        return {"type": "file", "mime": self.mime, "filename": self.name, "url": f"data:{self.mime};base64,{data}"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent as one user message."""

    texts: tuple[str, ...]
    files: tuple[FilePart, ...] = ()
    system: str | None = None
    """Added to the agent's system prompt, for this turn."""
    model: str | None = None
    """``provider/model``; None: that of the session's last prompt, else the server's own choice."""

    def to_json(self) -> dict[str, Any]:
        """Make it the body of ``prompt_async``."""
        parts = [{"type": "text", "text": text} for text in self.texts]
        body: dict[str, Any] = {"parts": [*parts, *(file.to_json() for file in self.files)]}
        if self.system is not None:
            body["system"] = self.system
        if self.model is not None:
            # A model's own name may contain slashes: "openrouter/meta-llama/llama-3".
            provider, _, name = self.model.partition("/")
            body["model"] = {"providerID": provider, "modelID": name}
        return body


def as_object(value: object, what: str) -> Json:
    """Return a JSON object as it is; raise `ServerRejected` for anything else."""
    if not isinstance(value, dict):
        raise ServerRejected(f"OpenCode's {what} is {type(value).__name__} where an object was expected.")
    return value


def as_list(value: object, what: str) -> list[Any]:
    """Return a JSON array as it is; raise `ServerRejected` for anything else."""
    if not isinstance(value, list):
        raise ServerRejected(f"OpenCode's {what} is {type(value).__name__} where a list was expected.")
    return value


def text_of(source: Json, name: str) -> str:
    """Give a text field, or the empty text."""
    value = source.get(name)
    return value if isinstance(value, str) else ""


def id_of(source: Json, name: str, what: str) -> str:
    """Give an id, which cannot be missing; raise `ServerRejected` where it is."""
    value = source.get(name)
    if not isinstance(value, str) or not value:
        raise ServerRejected(f"OpenCode's {what} has no {name}.")
    return value


def parse_message(value: object) -> SessionMessage:
    """Parse an entry of ``GET /session/{id}/message``: ``info`` and ``parts``."""
    entry = as_object(value, "message")
    return parse_info(entry.get("info"), parts=tuple(parse_part(part) for part in as_list(entry.get("parts"), "parts")))


def parse_info(value: object, *, parts: tuple[Part, ...] = ()) -> SessionMessage:
    """Parse a message's ``info``, which is also what ``message.updated`` carries."""
    info = as_object(value, "message")
    times = _object(info, "time")
    return SessionMessage(
        id=id_of(info, "id", "message"),
        role=id_of(info, "role", "message"),
        parent_id=text_of(info, "parentID") or None,
        created_at=_moment(times.get("created")),
        completed_at=_moment(times.get("completed")),
        finish=text_of(info, "finish") or None,
        error=parse_failure(info.get("error")),
        usage=_usage(info),
        model=_model(info),
        # On a user message the field is an object: the changes made in answer to it.
        is_summary=info.get("summary") is True,
        parts=parts,
    )


def parse_part(value: object) -> Part:
    """Parse one part of a message."""
    part = as_object(value, "part")
    return Part(
        id=id_of(part, "id", "part"),
        message_id=id_of(part, "messageID", "part"),
        kind=id_of(part, "type", "part"),
        text=text_of(part, "text"),
        is_hidden=part.get("synthetic") is True or part.get("ignored") is True,
        is_ended=_object(part, "time").get("end") is not None,
        call=_call(part) if part.get("type") == "tool" else None,
    )


def parse_failure(value: object) -> ProviderFailure | None:
    """Parse an error object; None for none."""
    if not isinstance(value, dict):
        return None
    data = _object(value, "data")
    status = data.get("statusCode")
    # A text of several lines is a stack trace below its first line.
    message = text_of(data, "message").partition("\n    at ")[0].strip()
    return ProviderFailure(
        name=text_of(value, "name") or "UnknownError",
        message=(message or text_of(value, "name") or "OpenCode gave no reason.")[:LONGEST_MESSAGE],
        status=status if isinstance(status, int) else None,
        is_retryable=data.get("isRetryable") is True,
    )


def parse_settings_trouble(value: object) -> str | None:
    """Say what OpenCode finds wrong with its settings, where that is what an error object is about. What it read stays unsaid."""
    if not isinstance(value, dict) or not text_of(value, "name").startswith("Config"):
        return None
    issues = _object(value, "data").get("issues")
    found = [_settings_issue(issue) for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []
    return "; ".join(found)[:LONGEST_MESSAGE] or text_of(value, "name")


def _settings_issue(issue: Json) -> str:
    path = issue.get("path")
    where = ".".join(str(part) for part in path) if isinstance(path, list) else ""
    return f"{where}: {text_of(issue, 'message').partition(', got')[0]}"


def _call(part: Json) -> ToolCall:
    state = _object(part, "state")
    running_output = text_of(_object(state, "metadata"), "output")
    return ToolCall(
        tool=text_of(part, "tool") or "unknown",
        call_id=text_of(part, "callID") or text_of(part, "id"),
        status=text_of(state, "status"),
        input=_object(state, "input"),
        output=text_of(state, "output") or running_output,
        error=text_of(state, "error"),
        title=text_of(state, "title") or None,
    )


def _usage(info: Json) -> Usage:
    tokens = _object(info, "tokens")
    cache = _object(tokens, "cache")
    return Usage(
        input_tokens=int(_number(tokens, "input")),
        output_tokens=int(_number(tokens, "output")),
        reasoning_tokens=int(_number(tokens, "reasoning")),
        cache_read_tokens=int(_number(cache, "read")),
        cache_write_tokens=int(_number(cache, "write")),
        cost=_number(info, "cost"),
    )


def _model(info: Json) -> str | None:
    # On assistant messages the two are fields of their own, on user messages they are inside "model".
    source = info if "modelID" in info else _object(info, "model")
    provider, name = text_of(source, "providerID"), text_of(source, "modelID")
    return f"{provider}/{name}" if provider and name else None


def _object(source: Json, name: str) -> Json:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _number(source: Json, name: str) -> float:
    value = source.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _moment(value: object) -> datetime | None:
    """Milliseconds since 1970, as OpenCode writes times."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return None
