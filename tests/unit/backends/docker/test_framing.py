"""The engine's framing, split anywhere."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.backends.docker.framing import MAX_LINE_BYTES, Frame, FrameDecoder, LineAssembler
from cnap_runner.model.instance import LogLine

NUMBERS = {"stdout": 1, "stderr": 2}
STAMP = b"2026-01-02T03:04:05.123456789Z "
AT = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)

frames = st.lists(st.builds(Frame, stream=st.sampled_from(sorted(NUMBERS)), content=st.binary(max_size=40)), max_size=8)


def encoded(frame: Frame) -> bytes:
    return bytes([NUMBERS[frame.stream], 0, 0, 0]) + len(frame.content).to_bytes(4, "big") + frame.content


@given(frames, st.lists(st.integers(min_value=1, max_value=17), min_size=1))
def test_frames_come_out_as_they_went_in_wherever_the_bytes_are_split(sent: list[Frame], sizes: list[int]) -> None:
    """How the network cuts the bytes changes nothing."""
    data = b"".join(encoded(frame) for frame in sent)
    received: list[Frame] = []
    decoder, position, turn = FrameDecoder(), 0, 0

    while position < len(data):
        size = sizes[turn % len(sizes)]
        received += decoder.feed(data[position : position + size])
        position, turn = position + size, turn + 1

    assert received == sent


def test_a_frame_is_held_back_until_it_is_whole() -> None:
    """Half a frame is nothing yet."""
    data = encoded(Frame("stdout", b"hello"))
    decoder = FrameDecoder()

    assert list(decoder.feed(data[:-1])) == []
    assert list(decoder.feed(data[-1:])) == [Frame("stdout", b"hello")]


def test_what_is_not_framed_is_refused() -> None:
    """Plain text, as a container with a terminal gives it, is not mistaken for a frame."""
    with pytest.raises(ValueError, match="not a frame"):
        list(FrameDecoder().feed(b"plain text without any header"))


def test_a_line_has_its_time_and_not_its_end() -> None:
    """The engine's stamp becomes the line's time."""
    assert list(LineAssembler().add(Frame("stdout", STAMP + b"hello there\n"))) == [
        LogLine("stdout", "hello there", AT)
    ]


def test_a_line_split_over_frames_is_one_line() -> None:
    """A long line comes in parts with a stamp each; the other stream may come in between."""
    lines = LineAssembler()

    assert list(lines.add(Frame("stdout", STAMP + b"one "))) == []
    assert [line.text for line in lines.add(Frame("stderr", STAMP + b"other\n"))] == ["other"]
    assert [line.text for line in lines.add(Frame("stdout", STAMP + b"line\n"))] == ["one line"]
    assert list(lines.rest()) == []


def test_last_words_without_an_end_are_told() -> None:
    """What an instance said as it died is not lost."""
    lines = LineAssembler()

    assert list(lines.add(Frame("stderr", STAMP + b"dying"))) == []
    assert list(lines.rest()) == [LogLine("stderr", "dying", AT)]


def test_an_endless_line_is_cut() -> None:
    """Output without line ends does not fill the memory."""
    told: list[LogLine] = []
    lines = LineAssembler()

    for _ in range(3 * MAX_LINE_BYTES // 16384):
        told += lines.add(Frame("stdout", STAMP + b"x" * 16384))

    assert [len(line.text) for line in told] == [MAX_LINE_BYTES] * 3


def test_a_frame_without_a_stamp_is_all_text() -> None:
    """A message of the engine itself has no time."""
    assert list(LineAssembler().add(Frame("stderr", b"error from daemon\n"))) == [
        LogLine("stderr", "error from daemon", None)
    ]
