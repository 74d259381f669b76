"""OpenCode's JSON, whole, with gaps, and garbled."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.errors import ServerRejected
from cnap_runner.model.run import Usage
from cnap_runner.opencode.events import OtherEvent, parse_event
from cnap_runner.opencode.wire import FilePart, ProviderFailure, parse_failure, parse_message

ANSWER = {
    "info": {
        "id": "msg_2",
        "sessionID": "ses_1",
        "role": "assistant",
        "time": {"created": 1795272312228, "completed": 1795272312652},
        "parentID": "msg_1",
        "modelID": "family/demo",
        "providerID": "test",
        "cost": 0.25,
        "tokens": {"total": 10, "input": 7, "output": 3, "reasoning": 1, "cache": {"read": 2, "write": 4}},
        "finish": "tool-calls",
        "error": {"name": "APIError", "data": {"message": "boom", "statusCode": 500, "isRetryable": True}},
        "a-field-of-tomorrow": {"x": 1},
    },
    "parts": [
        {"id": "prt_1", "messageID": "msg_2", "type": "step-start"},
        {"id": "prt_2", "messageID": "msg_2", "type": "text", "text": "one "},
        {"id": "prt_3", "messageID": "msg_2", "type": "text", "text": "psst", "synthetic": True},
        {"id": "prt_4", "messageID": "msg_2", "type": "text", "text": "two"},
        {
            "id": "prt_5",
            "messageID": "msg_2",
            "type": "tool",
            "tool": "bash",
            "callID": "c1",
            "state": {"status": "running", "input": {"command": "ls"}, "metadata": {"output": "a"}},
        },
    ],
}

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "role", "time", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_message_is_read_whole() -> None:
    """Every field that is used, from a message as the real server sends it."""
    message = parse_message(ANSWER)
    assert (message.id, message.role, message.parent_id) == ("msg_2", "assistant", "msg_1")
    assert message.created_at == datetime(2026, 11, 21, 14, 45, 12, 228000, tzinfo=UTC)
    assert message.is_complete
    assert message.finish == "tool-calls"
    assert message.error == ProviderFailure("APIError", "boom", 500, is_retryable=True)
    assert message.usage == Usage(7, 3, 1, 2, 4, 0.25)
    assert message.model == "test/family/demo"
    assert message.text == "one two"
    assert message.has_running_tool


def test_missing_fields_get_defaults() -> None:
    """A message of which only the indispensable is there is still one."""
    message = parse_message({"info": {"id": "msg_1", "role": "user"}, "parts": []})
    assert (message.model, message.finish, message.error, message.usage, message.text) == (
        None,
        None,
        None,
        Usage(),
        "",
    )
    assert not message.is_complete


def test_stack_traces_are_cut_from_errors() -> None:
    """Of an error with a stack trace the first line is kept; one without words has its name."""
    trace = {"name": "UnknownError", "data": {"message": "Model not found: x.\n    at run (/a.js:1:2)\n    at go"}}
    assert parse_failure(trace) == ProviderFailure("UnknownError", "Model not found: x.")
    assert parse_failure({"name": "MessageOutputLengthError", "data": {}}) == ProviderFailure(
        "MessageOutputLengthError", "MessageOutputLengthError"
    )


def test_content_of_a_file_is_not_shown() -> None:
    """A file's content does not appear when the prompt is printed."""
    assert "topsecret" not in repr(FilePart("a", "text/plain", b"topsecret"))


@given(info=_json, parts=_json)
def test_any_json_is_a_message_or_rejected(info: Any, parts: Any) -> None:
    """Whatever JSON comes, parsing gives a message or `ServerRejected`, nothing else."""
    with contextlib.suppress(ServerRejected):
        parse_message({"info": info, "parts": parts})


@pytest.mark.parametrize(
    "kind",
    [
        "message.updated",
        "message.part.updated",
        "message.part.delta",
        "session.status",
        "session.idle",
        "session.error",
        "session.created",
        "file.edited",
        "permission.asked",
        "permission.replied",
        "question.asked",
        "question.replied",
        "question.rejected",
    ],
)
@given(properties=_json)
def test_any_event_is_parsed_or_rejected(kind: str, properties: Any) -> None:
    """Events of known types in unknown shapes are rejected, never misread."""
    with contextlib.suppress(ServerRejected):
        parse_event(json.dumps({"type": kind, "properties": properties}))


def test_unknown_events_are_passed_on_as_such() -> None:
    """A type of tomorrow disturbs nothing, whatever it carries."""
    assert parse_event('{"type": "of.tomorrow", "properties": 7}') == OtherEvent("of.tomorrow")
