"""The files of one agent's collected output: lines of JSON, in segments of bounded size, of which the newest are kept.

A segment is named for the number of lines that were written before it, so whoever reads on after it was away knows how many it missed.
The collector writes under the agent's log lock; reading needs none. All functions block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path

from cnap_runner.model.instance import LogLine

PREFIX, SUFFIX = "output-", ".jsonl"
OURS = "cnap-runner"
"""Stream of the lines that this package adds: where lines were dropped, where an instance's output ended."""
END = "its output ends here"
"""What such a line says behind the last one of an instance that ended."""
TAIL_BYTES = 1 << 20
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file."""

    first: int
    """Number of the line it begins with; lines are counted over the agent's whole life."""
    path: Path
    size: int
    """Bytes it had when it was found; what came since is not read."""


def segments_in(folder: Path) -> list[Segment]:
    """Find the segments in a folder, oldest first, as they are at this moment; none where there is no folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                number = entry.name.removeprefix(PREFIX).removesuffix(SUFFIX)
                if entry.name == f"{PREFIX}{number}{SUFFIX}" and number.isdecimal():
                    found.append(Segment(int(number), folder / entry.name, entry.stat(follow_symlinks=False).st_size))
    except FileNotFoundError:
        return []  # the folder, or a segment that was dropped just now: with it the agent may have been deleted
    return sorted(found)


def encode(line: LogLine) -> bytes:
    """Write one line as it lies in a segment."""
    at = None if line.at is None else line.at.isoformat()
    fields = {"at": at, "stream": line.stream, "instance": line.instance_id, "text": line.text}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def decode(raw: bytes) -> LogLine:
    """Read one line of a segment; one that is damaged is given as it is."""
    try:
        said = json.loads(raw)
        at = None if said["at"] is None else datetime.fromisoformat(said["at"])
        return LogLine(stream=said["stream"], text=said["text"], at=at, instance_id=said["instance"])
    except (ValueError, KeyError, TypeError):
        return LogLine(stream=OURS, text=raw.decode(errors="replace").rstrip("\n"))


class SegmentWriter:
    """Appends to the newest segment and begins the next one where that is full. Whoever uses it holds the agent's log lock."""

    def __init__(self, folder: Path, *, max_bytes: int, keep: int) -> None:
        """Nothing is made before the first line. ``keep`` segments of ``max_bytes`` stay, the newest ones."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep = keep
        self._path: Path | None = None
        self._size = 0
        self._count = 0
        """Lines over the agent's whole life."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Write encoded lines, all or none. Raises `OSError`; the agent's own folder is never made, as it may have been deleted."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._path is None:
            self._find_end()
        data = b"".join(lines)
        if self._path is None or (self._size and self._size + len(data) > self._max_bytes):
            self._begin_next()
        self._size = self._write(data)
        self._count += len(lines)

    def _find_end(self) -> None:
        """Go on where the last writer stood; what it left half written, when it was killed, is taken away."""
        found = segments_in(self._folder)
        if found:
            last = found[-1]
            lines, self._size = _whole_lines(last.path)
            os.truncate(last.path, self._size)
            self._path, self._count = last.path, last.first + lines

    def _begin_next(self) -> None:
        self._path, self._size = self._folder / f"{PREFIX}{self._count:012d}{SUFFIX}", 0
        kept = [segment for segment in segments_in(self._folder) if segment.path != self._path]
        for old in kept[: max(0, len(kept) - self._keep + 1)]:
            old.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> int:
        """Append to the segment and return its size."""
        assert self._path is not None  # noqa: S101 - for the type checker; `append` has set it
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before, written = os.fstat(descriptor).st_size, 0
            try:
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except OSError:
                # Whoever reads sees whole lines only, and the next attempt begins where this one did.
                os.ftruncate(descriptor, before)
                raise
            return before + written
        finally:
            os.close(descriptor)


def _whole_lines(path: Path) -> tuple[int, int]:
    """Count a file's whole lines and the bytes they take."""
    lines, end, at = 0, 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            lines += block.count(b"\n")
            last = block.rfind(b"\n")
            end = at + last + 1 if last >= 0 else end
            at += len(block)
    return lines, end


def newest_first(segments: Sequence[Segment]) -> Iterator[LogLine]:
    """Give the whole lines of segments, the newest first, reading no more than is asked for."""
    for segment in reversed(segments):
        try:
            yield from map(decode, _reversed_lines(segment))
        except FileNotFoundError:
            return  # dropped meanwhile, and with it all before it


def oldest_first(segments: Sequence[Segment]) -> Iterator[LogLine]:
    """Give the whole lines of segments. Where some were dropped before they could be read, a line of ours says how many."""
    missing = 0
    for segment, after in zip_longest(segments, segments[1:]):
        try:
            file = segment.path.open("rb")
        except FileNotFoundError:
            missing += after.first - segment.first if after else 0
            continue
        if missing:
            yield LogLine(stream=OURS, text=f"{missing} lines were dropped before they could be read")
            missing = 0
        with file:
            end = segment.size
            while end > 0 and (raw := file.readline(end)).endswith(b"\n"):
                end -= len(raw)
                yield decode(raw)


def _reversed_lines(segment: Segment) -> Iterator[bytes]:
    """Give a segment's whole lines from its end on, without their ends."""
    with segment.path.open("rb") as file:
        at, rest, has_end = segment.size, b"", False
        while at > 0:
            size = min(_BLOCK, at)
            at -= size
            file.seek(at)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            if not has_end:
                # What follows the last line end is being written just now.
                has_end = bool(lines)
                rest = rest if lines else b""
                del lines[-1:]
            yield from reversed(lines)
        if rest:
            yield rest


@dataclass(frozen=True, slots=True)
class Mark:
    """The last line of one stream."""

    at: datetime | None
    count: int
    """How many lines of the stream have that very time."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an instance's output was read."""

    stream: str | None = None
    """Of the last line; None: nothing was read."""
    marks: Mapping[str, Mark] = field(default_factory=dict)
    is_complete: bool = False
    """Whether it was read to its end."""

    @property
    def last(self) -> Mark | None:
        """The mark of the last line."""
        return None if self.stream is None else self.marks[self.stream]

    def after(self, line: LogLine) -> Standing:
        """The standing once one more line was read."""
        known = self.marks.get(line.stream)
        count = known.count + 1 if known is not None and known.at == line.at else 1
        return Standing(line.stream, {**self.marks, line.stream: Mark(line.at, count)})


def standing_of(segments: Sequence[Segment], instance_id: str) -> Standing:
    """Find out how far an instance's output was collected. Looks at the newest mebibyte."""
    looked, is_complete = 0, False
    recent: list[LogLine] = []
    for line in newest_first(segments):
        looked += len(line.text)
        if looked > TAIL_BYTES:
            break
        if line.instance_id != instance_id:
            continue
        if line.stream == OURS:
            is_complete = is_complete or line.text == END
            continue
        recent.append(line)
        if line.stream == recent[0].stream and line.at != recent[0].at:
            break  # the times of one stream are in order
    standing = Standing()
    for line in reversed(recent):
        standing = standing.after(line)
    return replace(standing, is_complete=is_complete)
