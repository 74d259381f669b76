"""What is written where."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.cli.output import brief, plain, printable, spell
from cnap_runner.model.run import Outcome, RunError, RunResult


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    """What an agent wrote cannot move the cursor or set the title; text, tabs and line ends stay."""
    assert printable("a\x1b[2Jb\x07\tc\r\nd\x9be ü") == "a\ufffd[2Jb\ufffd\tc\nd\ufffde ü"


def test_a_result_is_plain_json() -> None:
    """Points in time are ISO 8601, durations seconds, enums their text."""
    result = RunResult(
        run_id="run-1",
        agent_id="alice",
        task_id="main",
        outcome=Outcome.FAILED,
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        duration=timedelta(seconds=1.5),
        error=RunError(code="provider_error", message="no"),
    )
    shown = json.loads(json.dumps(plain(result)))
    assert shown["outcome"] == "failed"
    assert (shown["started_at"], shown["duration"]) == ("2026-01-02T00:00:00+00:00", 1.5)
    assert shown["error"] == {"code": "provider_error", "message": "no", "retryable": False, "tool": None}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (12, "12 s"), (119, "119 s"), (600, "10 min"), (10800, "3 h"), (432000, "5 d")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """A person reads at a glance how long something took."""
    assert spell(timedelta(seconds=seconds)) == text


def test_a_brief_text_is_one_line_and_says_that_it_was_cut() -> None:
    """What is left out is shown to be."""
    assert (brief("short", 10), brief("two\nlines", 10), brief("x" * 20, 10)) == ("short", "two…", "x" * 9 + "…")
