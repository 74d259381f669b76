"""How a turn's messages are judged. Tables and properties; nothing is read and nothing waits."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.model.run import Outcome, Usage
from cnap_runner.opencode.verdict import Standing, TurnEnd, judge, turn_messages
from cnap_runner.opencode.wire import Part, ProviderFailure, SessionMessage

DONE_AT = datetime(2026, 1, 1, tzinfo=UTC)
IDLE = Standing(is_busy=False)
SETTLED = Standing(is_busy=False, is_settled=True)
BUSY = Standing(is_busy=True, is_settled=True, is_overdue=True)
ABORTED = ProviderFailure("MessageAbortedError", "Aborted")
OVERFLOW = ProviderFailure("ContextOverflowError", "too long")

QUESTION = SessionMessage("msg_1", "user", model="p/m")


def answer(
    number: int = 2,
    finish: str | None = "stop",
    *,
    text: str = "said",
    error: ProviderFailure | None = None,
    is_complete: bool = True,
    is_summary: bool = False,
) -> SessionMessage:
    return SessionMessage(
        id=f"msg_{number}",
        role="assistant",
        completed_at=DONE_AT if is_complete else None,
        finish=finish,
        error=error,
        usage=Usage(1, 2),
        model="p/m",
        is_summary=is_summary,
        parts=(Part(f"prt_{number}", f"msg_{number}", "text", text),),
    )


def told(end: TurnEnd | None) -> tuple[str, str | None] | None:
    return None if end is None else (str(end.outcome), None if end.error is None else end.error.code)


@pytest.mark.parametrize(
    ("messages", "standing", "expected"),
    [
        pytest.param([QUESTION, answer()], IDLE, ("succeeded", None), id="complete answer"),
        pytest.param([QUESTION, answer()], BUSY, None, id="complete answer, busy: it goes on"),
        pytest.param(
            [QUESTION, answer(2, "tool-calls"), answer(3)], IDLE, ("succeeded", None), id="tools, then an answer"
        ),
        pytest.param([QUESTION, answer(2, "tool-calls")], IDLE, None, id="tools, and idle for a moment"),
        pytest.param([QUESTION, answer(2, "tool-calls")], SETTLED, ("failed", "interrupted"), id="tools, then nothing"),
        pytest.param([QUESTION, answer(2, "unknown")], IDLE, None, id="an answer that broke off"),
        pytest.param([QUESTION, answer(2, None, is_complete=False)], IDLE, None, id="tidying up"),
        pytest.param([QUESTION, answer(2, None, is_complete=False)], SETTLED, ("failed", "interrupted"), id="killed"),
        pytest.param([QUESTION, answer(2, "stop", is_complete=False)], IDLE, None, id="finished, not complete"),
        pytest.param([QUESTION, answer(2, None)], IDLE, ("aborted", "aborted"), id="aborted while retrying"),
        pytest.param([QUESTION, answer(2, None, error=ABORTED)], IDLE, ("aborted", "aborted"), id="aborted"),
        pytest.param([QUESTION, answer(2, "length")], IDLE, ("failed", "output_truncated"), id="truncated"),
        pytest.param([QUESTION, answer(2, "content-filter")], IDLE, ("failed", "content_filtered"), id="filtered"),
        pytest.param(
            [QUESTION, answer(2, "end-of-days")], IDLE, ("succeeded", None), id="a reason to stop unknown to us"
        ),
        pytest.param([QUESTION], IDLE, None, id="not begun"),
        pytest.param([], IDLE, None, id="not arrived"),
        pytest.param([QUESTION], Standing(is_busy=False, is_overdue=True), ("failed", "not_started"), id="never begun"),
        pytest.param([], Standing(is_busy=False, is_overdue=True), ("failed", "not_started"), id="never arrived"),
        pytest.param(
            [QUESTION], Standing(is_busy=False, failure=OVERFLOW), ("failed", "context_overflow"), id="error, no answer"
        ),
        pytest.param([], Standing(is_busy=False, failure=OVERFLOW), None, id="somebody else's error"),
        pytest.param(
            [QUESTION, answer(2, None, is_complete=False)],
            Standing(is_busy=False, is_settled=True, failure=ABORTED),
            ("aborted", "aborted"),
            id="settled, with an error that was told",
        ),
        pytest.param(
            [QUESTION, answer(2, None), SessionMessage("msg_3", "user"), answer(4, "stop", is_summary=True)],
            IDLE,
            None,
            id="shortened, and about to go on",
        ),
        pytest.param(
            [QUESTION, SessionMessage("msg_3", "user"), answer(4, "stop", is_summary=True), answer(5)],
            IDLE,
            ("succeeded", None),
            id="shortened and answered",
        ),
        pytest.param(
            [
                QUESTION,
                answer(2, None),
                SessionMessage("msg_3", "user"),
                answer(4, "error", is_summary=True, error=OVERFLOW),
            ],
            IDLE,
            ("failed", "context_overflow"),
            id="too long to be shortened",
        ),
    ],
)
def test_table(messages: list[SessionMessage], standing: Standing, expected: tuple[str, str | None] | None) -> None:
    """Each state the real server was seen in, and what it means."""
    assert told(judge(messages, standing)) == expected


def test_output_is_the_last_answers_and_usage_is_everyones() -> None:
    """Earlier answers of a turn are no part of its output; their usage counts."""
    end = judge([QUESTION, answer(2, "tool-calls", text="first"), answer(3, text="last")], IDLE)
    assert end == TurnEnd(Outcome.SUCCEEDED, output="last", usage=Usage(2, 4), model="p/m")


_messages = st.lists(
    st.builds(
        answer,
        st.integers(2, 9),
        st.sampled_from(["stop", "tool-calls", "unknown", "length", "content-filter", None]),
        error=st.sampled_from([None, None, ABORTED, OVERFLOW]),
        is_complete=st.booleans(),
        is_summary=st.booleans(),
    ),
    max_size=4,
)
_standings = st.builds(
    Standing,
    is_busy=st.booleans(),
    is_settled=st.booleans(),
    is_overdue=st.booleans(),
    failure=st.sampled_from([None, ABORTED, OVERFLOW]),
)


@given(answers=_messages, standing=_standings)
def test_only_a_whole_last_answer_is_a_success(answers: list[SessionMessage], standing: Standing) -> None:
    """Whatever the messages: success needs an idle session and a complete last answer without an error that ended by itself."""
    messages = [QUESTION, *answers]
    end = judge(messages, standing)
    if end is not None and end.outcome is Outcome.SUCCEEDED:
        last = answers[-1]
        assert (last.error, last.finish, last.is_complete, last.is_summary) == (None, "stop", True, False)
        assert not standing.is_busy
        assert end.error is None
    elif end is not None:
        assert end.error is not None


@given(answers=_messages, standing=_standings)
def test_a_settled_and_overdue_turn_is_always_decided(answers: list[SessionMessage], standing: Standing) -> None:
    """No turn is followed for ever: idle, settled and past its deadline, each has an end."""
    final = Standing(is_busy=False, is_settled=True, is_overdue=True, failure=standing.failure)
    assert judge([QUESTION, *answers], final) is not None


@given(st.lists(st.integers(0, 99), unique=True), st.integers(0, 99))
def test_turn_is_what_comes_after(numbers: list[int], after: int) -> None:
    """The messages of a turn are exactly those with a later id; without one before, all."""
    messages = [SessionMessage(f"msg_{number:02}", "user") for number in sorted(numbers)]
    later = [message.id for message in turn_messages(messages, f"msg_{after:02}")]
    assert later == [f"msg_{number:02}" for number in sorted(numbers) if number > after]
    assert turn_messages(messages, None) == messages
