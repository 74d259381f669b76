"""The files of collected output."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cnap_runner.model.instance import LogLine
from cnap_runner.runner.collectors.segments import (
    END,
    OURS,
    Mark,
    SegmentWriter,
    Standing,
    encode,
    newest_first,
    oldest_first,
    segments_in,
    standing_of,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def line(number: int, *, stream: str = "stderr", instance: str = "i-1") -> LogLine:
    return LogLine(stream=stream, text=f"line {number}", at=NOON + timedelta(seconds=number), instance_id=instance)


def write(folder: Path, *lines: LogLine, max_bytes: int = 1 << 20, keep: int = 5) -> None:
    SegmentWriter(folder, max_bytes=max_bytes, keep=keep).append([encode(each) for each in lines])


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    """In both directions, over all segments, whatever is in them."""
    lines = [LogLine(stream="stdout", text='"ünïcode"\ttab \ud800', at=None, instance_id="i-1"), *map(line, range(300))]
    writer = SegmentWriter(tmp_path / "logs", max_bytes=4000, keep=100)
    for each in lines:
        writer.append([encode(each)])
    segments = segments_in(tmp_path / "logs")
    assert len(segments) > 3
    lines[0] = LogLine(stream="stdout", text='"ünïcode"\ttab ?', at=None, instance_id="i-1")
    assert list(oldest_first(segments)) == lines
    assert list(newest_first(segments)) == lines[::-1]


def test_f21_only_the_newest_segments_are_kept(tmp_path: Path) -> None:
    """An agent that prints for months takes no more room than it was given, and each segment knows how many lines were before it."""
    writer = SegmentWriter(tmp_path, max_bytes=1000, keep=3)
    for number in range(200):
        writer.append([encode(line(number))])
    segments = segments_in(tmp_path)
    assert len(segments) == 3
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000
    kept = [each.text for each in oldest_first(segments)]
    assert kept == [f"line {number}" for number in range(segments[0].first, 200)]


def test_a_half_written_line_of_a_killed_writer_is_taken_away(tmp_path: Path) -> None:
    """The next writer goes on behind the last whole line; readers never see the half one."""
    write(tmp_path, line(0), line(1))
    (segment,) = segments_in(tmp_path)
    with segment.path.open("ab") as file:
        file.write(b'{"at":"2026-01-01T12:00')
    assert [each.text for each in newest_first(segments_in(tmp_path))] == ["line 1", "line 0"]
    assert [each.text for each in oldest_first(segments_in(tmp_path))] == ["line 0", "line 1"]
    write(tmp_path, line(2))
    assert [each.text for each in oldest_first(segments_in(tmp_path))] == ["line 0", "line 1", "line 2"]


def test_numbers_go_on_over_writers(tmp_path: Path) -> None:
    """A segment's name counts the lines of the agent's whole life."""
    write(tmp_path, line(0), line(1), max_bytes=10)
    write(tmp_path, line(2), max_bytes=10)
    assert [segment.first for segment in segments_in(tmp_path)] == [0, 2]


def test_lines_lost_under_a_readers_hands_are_told_of(tmp_path: Path) -> None:
    """Segments that were dropped before they could be read leave a line that says how many lines they had."""
    for number in range(4):
        write(tmp_path, line(number), max_bytes=10)
    segments = segments_in(tmp_path)
    for dropped in segments[:3]:
        dropped.path.unlink()
    said = list(oldest_first(segments))
    assert [each.text for each in said] == ["3 lines were dropped before they could be read", "line 3"]
    assert said[0].stream == OURS


def test_what_comes_after_a_look_is_not_read(tmp_path: Path) -> None:
    """Segments are read as they were when they were found, so that nothing is read twice by who goes on from there."""
    write(tmp_path, line(0))
    seen = segments_in(tmp_path)
    write(tmp_path, line(1))
    assert [each.text for each in oldest_first(seen)] == ["line 0"]
    assert [each.text for each in newest_first(seen)] == ["line 0"]


def test_a_damaged_line_is_given_as_it_is(tmp_path: Path) -> None:
    """What somebody wrote into the file hides nothing else."""
    write(tmp_path, line(0))
    with segments_in(tmp_path)[0].path.open("ab") as file:
        file.write(b"[]\nnonsense\n")
    write(tmp_path, line(1))
    assert [each.text for each in oldest_first(segments_in(tmp_path))] == ["line 0", "[]", "nonsense", "line 1"]


def test_the_folder_of_a_deleted_agent_is_not_made_again(tmp_path: Path) -> None:
    """Only the last folder is made; where the agent's own is gone, writing fails."""
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone" / "logs", line(0))
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """Where a batch does not fit, nothing of it stays, and the next one is written once there is room."""
    writer = SegmentWriter(tmp_path, max_bytes=1 << 20, keep=5)
    writer.append([encode(line(0))])
    resource = pytest.importorskip("resource")
    (segment,) = segments_in(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal = pytest.importorskip("signal")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (segment.size + 10, hard))
        with pytest.raises(OSError, match="too large"):
            writer.append([encode(line(1))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert segments_in(tmp_path) == [segment]
    writer.append([encode(line(2))])
    assert [each.text for each in oldest_first(segments_in(tmp_path))] == ["line 0", "line 2"]


def test_the_standing_of_an_instance_is_its_last_line(tmp_path: Path) -> None:
    """With how many lines have that very time; other instances' lines and ours do not count."""
    write(tmp_path, line(0), line(1, stream="stdout"), line(1, stream="stdout"), line(2, instance="i-2"))
    known = standing_of(segments_in(tmp_path), "i-1")
    assert (known.stream, known.last) == ("stdout", Mark(NOON + timedelta(seconds=1), 2))
    assert standing_of(segments_in(tmp_path), "i-3") == Standing()
    write(tmp_path, LogLine(stream=OURS, text=END, instance_id="i-1"))
    assert standing_of(segments_in(tmp_path), "i-1") == replace(known, is_complete=True)


def test_no_folder_is_no_output(tmp_path: Path) -> None:
    """Nothing was collected, and that is no error."""
    assert segments_in(tmp_path / "none") == []
