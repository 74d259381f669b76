"""Reading an instance's output from the launcher's log."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from cnap_runner.backends.process_launcher.files import LOG_FILE, OLD_LOG_FILE
from cnap_runner.model.instance import LogLine


class LogReader:
    """Reads whole lines, oldest first, over the change from a full log to a new one. Methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._rest = b""

    def read_kept(self, tail: int | None) -> list[LogLine]:
        """Read what is kept: the last ``tail`` lines, or all."""
        lines = deque(self._read_old(), maxlen=tail)
        lines.extend(self.read_more())
        return list(lines)

    def read_more(self) -> list[LogLine]:
        """Read what came since the last call."""
        lines: list[LogLine] = []
        while True:
            if self._file is None:
                self._file = _open(self._folder / LOG_FILE)
            if self._file is None:
                return lines
            # Asked before reading: what is written to a log after it was replaced does not exist.
            is_replaced = self._is_replaced(self._file)
            lines.extend(self._take(self._file.read()))
            if not is_replaced:
                return lines
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_old(self) -> Iterable[LogLine]:
        """Open the present log first, then read the old one: a change in between loses nothing."""
        self._file = _open(self._folder / LOG_FILE)
        old = _open(self._folder / OLD_LOG_FILE)
        if old is None:
            return []
        with old:
            if self._file is not None and os.path.samestat(os.fstat(old.fileno()), os.fstat(self._file.fileno())):
                return []
            return self._take(old.read())

    def _is_replaced(self, file: BinaryIO) -> bool:
        try:
            return not os.path.samestat(os.fstat(file.fileno()), (self._folder / LOG_FILE).stat())
        except FileNotFoundError:
            return self._folder.is_dir() and (self._folder / OLD_LOG_FILE).exists()

    def _take(self, data: bytes) -> list[LogLine]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [parse_line(line.decode(errors="replace")) for line in lines]


def parse_line(line: str) -> LogLine:
    """Parse one line of the log; one that is damaged is given as it is."""
    stamp, _, rest = line.partition(" ")
    stream, _, text = rest.partition(" ")
    try:
        return LogLine(stream=stream, text=text, at=datetime.fromisoformat(stamp))
    except ValueError:
        return LogLine(stream="stderr", text=line)


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
