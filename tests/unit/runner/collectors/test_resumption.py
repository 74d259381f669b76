"""Going on behind the last collected line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model.instance import LogLine
from cnap_runner.runner.collectors.resumption import Resumption
from cnap_runner.runner.collectors.segments import Standing

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def line(text: str, millis: float, stream: str = "out") -> LogLine:
    return LogLine(stream=stream, text=text, at=NOON + timedelta(milliseconds=millis))


OUTPUT = [line("a", 0), line("b", 10), line("c", 9, "err"), line("d", 10), line("e", 10), line("f", 20)]
"""The streams are out of order by a millisecond, and three lines have one time."""


@pytest.mark.parametrize("read", range(1, len(OUTPUT) + 1))
def test_nothing_is_there_twice_and_nothing_is_missing(read: int) -> None:
    """Wherever the last reader stopped: in the middle of lines of one time, or between two streams."""
    standing = Standing()
    for known in OUTPUT[:read]:
        standing = standing.after(known)
    resumption = Resumption(standing)
    assert resumption.since is not None
    again = [each for each in OUTPUT if each.at is not None and each.at >= resumption.since]
    fresh = [found for each in again for found in resumption.take(each)]
    assert fresh + resumption.rest() == OUTPUT[read:]


def test_without_a_standing_all_is_new() -> None:
    """From the beginning on."""
    resumption = Resumption(Standing())
    assert resumption.since is None
    assert [found for each in OUTPUT for found in resumption.take(each)] == OUTPUT


def test_where_the_engine_forgot_the_last_line_what_is_later_is_new() -> None:
    """Its log was rotated meanwhile: what is certainly later is taken, what is certainly older is not."""
    resumption = Resumption(Standing().after(line("known", 5, "out")))
    assert resumption.take(line("older", 0)) == []
    assert resumption.take(line("later", 6)) == []
    much_later = line("much later", 5000)
    assert resumption.take(much_later) == [line("later", 6), much_later]
    assert resumption.take(line("anything", 0)) == [line("anything", 0)]


def test_at_the_end_what_was_held_back_is_given() -> None:
    """Nothing that is later than the last known line gets lost."""
    resumption = Resumption(Standing().after(line("known", 0, "out")))
    assert resumption.take(line("later", 6)) == []
    assert resumption.rest() == [line("later", 6)]
