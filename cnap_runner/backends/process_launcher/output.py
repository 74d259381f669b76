"""The instance's output: lines of both streams, with time and origin, in a file that does not grow without end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cnap_runner.backends.process_launcher.files import LOG_FILE, OLD_LOG_FILE

MAX_LOG_BYTES = 5 << 20
"""A log that is larger becomes the old one; the old one before it is dropped, so at most twice this is kept."""
MAX_LINE_BYTES = 64 << 10
"""A longer line is cut into several."""
_CHUNK = 64 << 10
_CHUNKS_PER_TURN = 16
"""A program that never stops writing must not keep the launcher from everything else."""


class OutputLog:
    """Writes ``<ISO time> <stream> <text>`` lines. A full disk costs lines, not the instance."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, stream: str, line: bytes) -> None:
        """Append one line."""
        stamp = datetime.now(UTC).isoformat(timespec="microseconds")
        with contextlib.suppress(OSError):
            path = self._folder / LOG_FILE
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:  # noqa: PTH123
                file.write(f"{stamp} {stream} ".encode() + line + b"\n")
                size = file.tell()
            if size > MAX_LOG_BYTES:
                path.replace(self._folder / OLD_LOG_FILE)


class LinePipe:
    """Cuts what comes out of a pipe into lines."""

    def __init__(self, descriptor: int, on_line: Callable[[bytes], None]) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._on_line = on_line
        self._rest = b""

    def pump(self) -> bool:
        """Take some of what is there now. False when the pipe is at its end."""
        for _ in range(_CHUNKS_PER_TURN):
            try:
                data = os.read(self.descriptor, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._emit(line)
            if len(self._rest) > MAX_LINE_BYTES:
                self._emit(self._rest)
                self._rest = b""
        return True

    def close(self) -> None:
        """Take the last, unfinished line and close the pipe."""
        self.pump()
        if self._rest:
            self._emit(self._rest)
        os.close(self.descriptor)

    def _emit(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), MAX_LINE_BYTES):
            self._on_line(line[start : start + MAX_LINE_BYTES].rstrip(b"\r"))
