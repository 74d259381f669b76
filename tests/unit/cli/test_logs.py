"""``cnap-runner logs``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.cli.logs import _moment, _show
from cnap_runner.errors import InvalidInput
from cnap_runner.model.instance import LogLine

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_since_is_a_time_or_so_long_ago() -> None:
    """A time without a zone is of this machine's; nothing is nothing."""
    assert _moment("2026-01-31T12:00Z") == NOON
    assert _moment("2026-01-31T12:00") == datetime(2026, 1, 31, 12).astimezone()
    assert _moment("10m") == timedelta(minutes=10)
    assert _moment(None) is None


@pytest.mark.parametrize("text", ["", "yesterday", "-5m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """The error says how to write one."""
    with pytest.raises(InvalidInput, match="no time"):
        _moment(text)


def test_output_and_what_is_said_about_it_go_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads the output gets nothing but output."""
    _show(LogLine(stream="stderr", text="hello", at=NOON), has_times=True)
    _show(LogLine(stream="cnap-runner", text="5 lines were dropped here"), has_times=True)
    said = capsys.readouterr()
    assert said.out == "2026-01-31T12:00:00.000000Z hello\n"
    assert "5 lines were dropped here" in said.err
