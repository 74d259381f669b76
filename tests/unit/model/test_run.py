"""RunRequest: what is sent, and when two requests are the same."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.errors import InvalidInput
from cnap_runner.model.run import (
    RUN_TRANSITIONS,
    Attachment,
    Message,
    RunRequest,
    RunState,
    Usage,
)


def user(text: str = "do it", **more: Any) -> Message:
    return Message(role="user", content=text, **more)


def test_only_what_the_session_does_not_know_is_sent() -> None:
    """The user messages after the last assistant one are sent; the session remembers the rest."""
    request = RunRequest(messages=[user("one"), Message(role="assistant", content="ok"), user("two"), user("three")])
    assert [message.content for message in request.to_send()] == ["two", "three"]


def test_system_messages_join_the_system_prompt() -> None:
    """A conversation in the usual form may carry its system prompt as a message."""
    request = RunRequest(system_prompt="A", messages=[Message(role="system", content="B"), user()])
    assert request.system_text() == "A\n\nB"


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "nothing to send"),
        ({"messages": [{"role": "user", "content": "  "}]}, "needs text or a file"),
        ({"messages": [{"role": "user", "content": "a\x00b"}]}, "NUL"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "x", "files": ["a"]}]}, "only user messages carry files"),
        ({"messages": [user()], "model": "gpt"}, "is not a model"),
        ({"messages": [user()], "task_id": "A B"}, "is not an id"),
        ({"messages": [user()], "timeout": -1}, "timeout"),
        ({"messages": [user()], "idempotency_key": ""}, "idempotency_key"),
    ],
)
def test_bad_requests_are_refused(fields: dict[str, Any], finding: str) -> None:
    """One error, before anything is created."""
    with pytest.raises(InvalidInput, match=finding):
        RunRequest(**fields)


def test_a_plain_path_stands_for_an_attachment() -> None:
    """``files=["a.txt"]`` reads like one would write it."""
    assert user(files=["a.txt"]).files == (Attachment(path=Path("a.txt")),)


def test_an_attachment_is_a_path_or_a_content() -> None:
    """Both, or neither, is an error."""
    for fields in ({}, {"path": "a", "content": b"x", "name": "a"}, {"content": b"x"}):
        with pytest.raises(InvalidInput, match="either a path, or a name with its content"):
            Attachment(**fields)


@pytest.mark.parametrize("other", [{"wait": False}, {"timeout": 5}, {"idempotency_key": "k"}])
def test_how_one_waits_does_not_make_another_request(other: dict[str, Any]) -> None:
    """The fingerprint is of what is asked, not of how the caller waits for it."""
    assert RunRequest(messages=[user()]).fingerprint() == RunRequest(messages=[user()], **other).fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [user("other")]},
        {"messages": [user(files=[{"name": "a", "content": b"1"}])]},
        {"task_id": "t-2"},
        {"model": "a/b"},
        {"system_prompt": "x"},
    ],
)
def test_what_is_asked_makes_the_fingerprint(other: dict[str, Any]) -> None:
    """Anything that changes what is asked changes it."""
    assert RunRequest(messages=[user()]).fingerprint() != RunRequest(**{"messages": [user()], **other}).fingerprint()


@given(st.lists(st.builds(Usage, st.integers(0, 10**9), st.integers(0, 10**9)), max_size=5))
def test_usage_adds_up(parts: list[Usage]) -> None:
    """The sum of a run is the sum of its calls."""
    total = sum(parts, Usage())
    assert total.input_tokens == sum(part.input_tokens for part in parts)
    assert total.output_tokens == sum(part.output_tokens for part in parts)


def test_every_state_has_its_followers() -> None:
    """The table of transitions is complete, and nothing sent goes back to unsent."""
    assert set(RUN_TRANSITIONS) == set(RunState)
    for state in RunState:
        if state.is_sent:
            assert all(follower.is_sent or follower is RunState.ENDED for follower in RUN_TRANSITIONS[state])


def test_one_mistake_is_one_finding_in_plain_words() -> None:
    """What follows from a mistake is not told beside it, nor the names of our classes."""
    with pytest.raises(InvalidInput) as caught:
        RunRequest(messages=[{"role": "user", "content": ""}])
    assert caught.value.message == "RunRequest: messages.0: a user message needs text or a file."
    with pytest.raises(InvalidInput, match=r"timeout: a duration must be more than 0"):
        RunRequest(messages=[user()], timeout=0)
