"""The engine's framing of two output streams on one connection, and lines made of it.

Each frame is 8 bytes (stream, three zeros, length in network order) and its content. Docker's reference: "Attach to a container",
stream format. All plain functions of bytes; nothing here reads or waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cnap_runner.model.instance import LogLine

HEADER_BYTES = 8
MAX_LINE_BYTES = 1 << 20
"""A longer line is cut in two, so that output without line ends cannot fill the manager's memory."""

_STREAMS = {0: "stdout", 1: "stdout", 2: "stderr", 3: "stderr"}
"""0 is what was typed in, 3 a complaint of the engine itself."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One piece of output."""

    stream: str
    """``stdout`` or ``stderr``."""
    content: bytes


class FrameDecoder:
    """Takes bytes as they come, split anywhere, and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes and yield each frame that is complete now. Raises `ValueError` for what is not framed at all."""
        self._buffer += data
        position = 0
        while len(self._buffer) - position >= HEADER_BYTES:
            header = self._buffer[position : position + HEADER_BYTES]
            stream = _STREAMS.get(header[0])
            if stream is None or any(header[1:4]):
                raise ValueError(f"not a frame of the engine's output: {bytes(header)!r}")
            end = position + HEADER_BYTES + int.from_bytes(header[4:], "big")
            if len(self._buffer) < end:
                break
            content = bytes(self._buffer[position + HEADER_BYTES : end])
            position = end
            yield Frame(stream, content)
        del self._buffer[:position]


class LineAssembler:
    """Makes log lines of frames that begin with a time each. The engine splits a line longer than 16 KiB over several frames."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[datetime | None, bytearray]] = {}

    def add(self, frame: Frame) -> Iterator[LogLine]:
        """Add a frame and yield the line that it completes, if it does."""
        at, text = _split_time(frame.content)
        started, line = self._started.setdefault(frame.stream, (at, bytearray()))
        line += text
        if text.endswith(b"\n") or len(line) >= MAX_LINE_BYTES:
            del self._started[frame.stream]
            yield _log_line(frame.stream, started, line)

    def rest(self) -> Iterator[LogLine]:
        """Yield what has no line end: the last words of an instance that died."""
        for stream, (at, line) in self._started.items():
            yield _log_line(stream, at, line)
        self._started.clear()


def _split_time(content: bytes) -> tuple[datetime | None, bytes]:
    stamp, space, text = content.partition(b" ")
    if not space:
        return None, content
    try:
        return datetime.fromisoformat(stamp.decode("ascii")), text
    except ValueError:
        return None, content


def _log_line(stream: str, at: datetime | None, line: bytearray) -> LogLine:
    return LogLine(stream=stream, text=bytes(line).removesuffix(b"\n").decode(errors="replace"), at=at)
