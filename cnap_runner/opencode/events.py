"""The events of ``GET /event`` that matter to a turn, parsed.

The stream carries everything that happens in the server's workspace, for every session. One event is one JSON object with
``type`` and ``properties``; there is no number to resume at, so what was missed has to be read by request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from cnap_runner.errors import ServerRejected
from cnap_runner.opencode.bounds import parse_json
from cnap_runner.opencode.wire import (
    Json,
    Part,
    ProviderFailure,
    SessionMessage,
    as_object,
    id_of,
    parse_failure,
    parse_info,
    parse_part,
    text_of,
)


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    """A message began or changed; it comes without its parts."""

    session_id: str
    message: SessionMessage


@dataclass(frozen=True, slots=True)
class PartUpdated:
    """A part began, changed or ended; its text is all there is of it at this point of the stream."""

    session_id: str
    part: Part


@dataclass(frozen=True, slots=True)
class PartDelta:
    """More of a part's text."""

    session_id: str
    message_id: str
    part_id: str
    text: str


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What a session does."""

    session_id: str
    status: str
    """``idle``, ``busy`` or ``retry``."""
    attempt: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """An error that ends a turn, or that OpenCode gets over by itself. Some are told here and nowhere else."""

    session_id: str | None
    failure: ProviderFailure


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session was made; that of a subagent has a parent."""

    session_id: str
    parent_id: str | None


@dataclass(frozen=True, slots=True)
class FileChanged:
    """A tool changed a file. The server does not say in which session."""

    path: str


@dataclass(frozen=True, slots=True)
class PermissionAsked:
    """The agent asks to be allowed something, and waits."""

    session_id: str
    request_id: str
    permission: str
    patterns: tuple[str, ...] = ()
    details: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """The agent asks a question, and waits."""

    session_id: str
    request_id: str
    questions: tuple[Json, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class RequestReplied:
    """A permission or question waits no more: it was answered, or rejected along with another one of its session."""

    session_id: str
    request_id: str
    reply: Literal["allow", "always", "reject", "answer"]


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """Anything else: heartbeats, and what a turn does not need."""

    type: str


ServerEvent = (
    MessageUpdated
    | PartUpdated
    | PartDelta
    | SessionStatus
    | SessionFailed
    | SessionOpened
    | FileChanged
    | PermissionAsked
    | QuestionAsked
    | RequestReplied
    | OtherEvent
)


def parse_event(data: str) -> ServerEvent:
    """Parse one event's data. Raises `ServerRejected` for no JSON, and for one of a known type in an unknown shape."""
    try:
        event = as_object(parse_json(data), "event")
    except ValueError as error:
        raise ServerRejected("The server's stream carries something that is no JSON.") from error
    kind = text_of(event, "type")
    parse = _PARSERS.get(kind)
    return OtherEvent(kind) if parse is None else parse(as_object(event.get("properties"), kind))


def _session(properties: Json) -> str:
    return id_of(properties, "sessionID", "event")


def _message(properties: Json) -> ServerEvent:
    return MessageUpdated(_session(properties), parse_info(properties.get("info")))


def _part(properties: Json) -> ServerEvent:
    return PartUpdated(_session(properties), parse_part(properties.get("part")))


def _delta(properties: Json) -> ServerEvent:
    if properties.get("field") != "text":
        return OtherEvent("message.part.delta")
    return PartDelta(
        _session(properties),
        id_of(properties, "messageID", "delta"),
        id_of(properties, "partID", "delta"),
        text_of(properties, "delta"),
    )


def _status(properties: Json) -> ServerEvent:
    status = as_object(properties.get("status"), "session.status")
    attempt = status.get("attempt")
    return SessionStatus(
        _session(properties),
        text_of(status, "type"),
        attempt=attempt if isinstance(attempt, int) else 0,
        message=text_of(status, "message"),
    )


def _idle(properties: Json) -> ServerEvent:
    return SessionStatus(_session(properties), "idle")


def _failed(properties: Json) -> ServerEvent:
    failure = parse_failure(properties.get("error")) or ProviderFailure("UnknownError", "OpenCode gave no reason.")
    return SessionFailed(text_of(properties, "sessionID") or None, failure)


def _opened(properties: Json) -> ServerEvent:
    info = as_object(properties.get("info"), "session")
    return SessionOpened(_session(properties), text_of(info, "parentID") or None)


def _file(properties: Json) -> ServerEvent:
    return FileChanged(text_of(properties, "file"))


def parse_permission(properties: Json) -> PermissionAsked:
    """Parse a permission that waits, as the stream tells it and ``GET /permission`` lists it."""
    patterns, metadata = properties.get("patterns"), properties.get("metadata")
    return PermissionAsked(
        _session(properties),
        id_of(properties, "id", "permission"),
        text_of(properties, "permission"),
        tuple(item for item in patterns if isinstance(item, str)) if isinstance(patterns, list) else (),
        metadata if isinstance(metadata, dict) else {},
    )


def parse_question(properties: Json) -> QuestionAsked:
    """Parse a question that waits, as the stream tells it and ``GET /question`` lists it."""
    questions: Any = properties.get("questions")
    return QuestionAsked(
        _session(properties),
        id_of(properties, "id", "question"),
        tuple(item for item in questions if isinstance(item, dict)) if isinstance(questions, list) else (),
    )


def _permission_replied(properties: Json) -> ServerEvent:
    said = text_of(properties, "reply")
    reply: Literal["allow", "always", "reject"] = "reject"
    if said in {"once", "always"}:
        reply = "allow" if said == "once" else "always"
    return RequestReplied(_session(properties), id_of(properties, "requestID", "reply"), reply)


def _question_replied(properties: Json) -> ServerEvent:
    return RequestReplied(_session(properties), id_of(properties, "requestID", "reply"), "answer")


def _question_rejected(properties: Json) -> ServerEvent:
    return RequestReplied(_session(properties), id_of(properties, "requestID", "reply"), "reject")


_PARSERS: MappingProxyType[str, Callable[[Json], ServerEvent]] = MappingProxyType(
    {
        "message.updated": _message,
        "message.part.updated": _part,
        "message.part.delta": _delta,
        "session.status": _status,
        "session.idle": _idle,
        "session.error": _failed,
        "session.created": _opened,
        "file.edited": _file,
        "permission.asked": parse_permission,
        "permission.replied": _permission_replied,
        "question.asked": parse_question,
        "question.replied": _question_replied,
        "question.rejected": _question_rejected,
    }
)
