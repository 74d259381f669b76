"""What goes where: results to standard output, everything else to standard error; colours only on a terminal.

Text that an agent or its model wrote passes `printable` before it reaches a terminal: an escape sequence in it must not drive
the user's terminal.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stderr() -> Console:
    """Give a console for what is not the result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """Give a console for results that are tables."""
    return Console(highlight=False)


def note(text: str, *, style: str = "") -> None:
    """Say one line on standard error."""
    stderr().print(Text(printable(text), style=style))


def print_line(text: str, *, style: str = "") -> None:
    """Print one line of a result, never wrapped."""
    stdout().print(Text(printable(text), style=style), soft_wrap=True)


def write(text: str) -> None:
    """Write text to standard output at once, as it is; safe for a terminal where that is one."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_json(value: Any, *, indent: int | None = None) -> None:
    """Write one JSON document, on one line unless an indent is given."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=indent) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Replace control characters; line ends and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def plain(value: Any) -> Any:
    """Turn our values into what JSON knows: points in time as ISO 8601, durations as seconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Path) else value


def redacted_data(value: Any) -> Any:
    """Turn our values into what JSON knows, without what looks like a secret."""
    from cnap_runner.telemetry.redaction import Redactor

    return Redactor().redact_data(plain(value))


def brief(text: str, width: int) -> str:
    """Give the first line of a text, cut to a width."""
    lines = text.strip().splitlines()
    line = lines[0] if lines else ""
    is_cut = len(line) > width or len(lines) > 1
    return f"{line[: width - 1]}…" if is_cut else line


def ago(at: datetime | None) -> str:
    """Say how long ago something was, for people."""
    return "" if at is None else spell(datetime.now(UTC) - at)


def spell(duration: timedelta) -> str:
    """Write a duration for people: ``0.4 s``, ``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    seconds = max(duration.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def is_interactive() -> bool:
    """Whether a person can be asked."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal. One that was closed before Python's start is None, and none."""
    return stream is not None and stream.isatty()


def table(*columns: str) -> Any:
    """Make a table without a frame, wide enough for pipes to see whole cells."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ignore" if not sys.stdout.isatty() else "ellipsis")
    return made


def print_table(made: Any) -> None:
    """Print a table. In a pipe no cell is cut."""
    console = stdout() if sys.stdout.isatty() else Console(highlight=False, width=1000)
    console.print(cast("Any", made))
