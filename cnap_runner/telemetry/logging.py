"""Logs: events with fields, ``runner_stopped agent_id=alice reason=idle``, set up in one place.

A log line is named for what happened, in the past tense and the words of the glossary; everything else is a field. Ids are bound once, with
`about`.

Everything goes through the standard library's loggers under ``cnap_runner``, so a program that uses this package as a library decides by the
usual means what becomes of its logs. Only the command line and the service call `configure_logging`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import structlog

from cnap_runner.telemetry.redaction import Redactor

ROOT = "cnap_runner"
"""Name of the logger above all of ours, and of the handler that `configure_logging` installs."""

IDS = ("install_id", "manager_id", "agent_id", "task_id", "run_id", "instance_id")
"""What a line is about. They are bound once, where they become known, and stand in every line below."""

_FIELDS = "cnap_fields"
"""Attribute of a log record that has its event and fields."""

Fields = MutableMapping[str, Any]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of events, for a module of this package: ``get_logger(__name__)``."""
    wrapped = structlog.wrap_logger(
        logging.getLogger(name), processors=_PROCESSORS, wrapper_class=structlog.stdlib.BoundLogger
    )
    return cast("structlog.stdlib.BoundLogger", wrapped)


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Bind ids (those of `IDS`) to all that is logged within the block, and to what it starts; afterwards they are as they were before.

    What `bind_contextvars` of structlog binds of them inside the block is undone too.
    """
    before = structlog.contextvars.get_contextvars()
    structlog.contextvars.bind_contextvars(**ids)
    try:
        yield
    finally:
        structlog.contextvars.unbind_contextvars(*IDS)
        structlog.contextvars.bind_contextvars(**{name: before[name] for name in IDS if name in before})


def bind(**ids: str) -> None:
    """Bind ids that become known in the middle of an `about` block, until its end."""
    structlog.contextvars.bind_contextvars(**ids)


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    log_format: Literal["console", "json"],
    redactor: Redactor,
    *,
    stream: TextIO | None = None,
) -> None:
    """Write this package's logs from that level on, and other libraries' from warnings on, to standard error (or ``stream``).

    Every line passes the redactor. Calling it again replaces what the last call set up. Loggers that structlog itself hands out go the
    same way afterwards.
    """
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    handler.set_name(ROOT)
    handler.addFilter(_is_worth_a_line)
    handler.setFormatter(_Formatter(redactor, _json if log_format == "json" else _console(is_terminal=target.isatty())))
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if each.get_name() == ROOT]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    logging.getLogger(ROOT).setLevel(level.upper())
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class _Formatter(logging.Formatter):
    """A record, ours or another library's, as one redacted line."""

    def __init__(self, redactor: Redactor, render: Callable[[Fields], str]) -> None:
        super().__init__()
        self._redactor = redactor
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"timestamp": at, "level": record.levelname.lower(), "logger": record.name, **_fields_of(record)}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # Once by the names of fields, and once as a whole for what only shows when it is rendered, such as an object's text.
        return self._redactor.redact(self._render(self._redactor.redact_data(entry)))


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == ROOT or record.name.startswith(f"{ROOT}.")


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return _is_ours(record) or (record.levelno >= logging.WARNING and not _is_late_wake_up(record))


def _is_late_wake_up(record: logging.LogRecord) -> bool:
    """Whether asyncio complains of a reader of anyio's that was cancelled in the very step in which its socket had something to read.

    anyio's streams of UNIX sockets, such as the engine's, hand the loop ``Future.set_result`` itself, which then finds its future done.
    Nothing is lost by it: nobody waits any more.
    """
    error = record.exc_info[1] if record.exc_info else None
    return (
        record.name == "asyncio"
        and isinstance(error, asyncio.InvalidStateError)
        and record.getMessage().startswith("Exception in callback Future.set_result(None)")
    )


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields: Mapping[str, Any] | None = getattr(record, _FIELDS, None)
    if fields is not None:
        return dict(fields)
    if _is_ours(record):
        return {"event": record.getMessage()}
    return {"event": "library_log", "message": record.getMessage()}


def _json(entry: Fields) -> str:
    return json.dumps(entry, default=str, ensure_ascii=False)


def _console(*, is_terminal: bool) -> Callable[[Fields], str]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=is_terminal, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )

    def render(entry: Fields) -> str:
        return str(renderer(None, "", {key: _printable(key, value) for key, value in entry.items()}))

    return render


def _printable(key: str, value: Any) -> Any:
    """Control characters escaped: what an agent wrote must not steer the terminal or look like lines of ours."""
    if not isinstance(value, str) or value.isprintable():
        return value
    allowed = "\n" if key == "exception" else ""
    return "".join(c if c.isprintable() or c in allowed else c.encode("unicode_escape").decode() for c in value)


def _to_record(_: Any, __: str, fields: Fields) -> tuple[tuple[str], dict[str, Any]]:
    """What the standard library's logger is called with: a readable message for any handler, and the fields for ours."""
    options = {name: fields.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in fields}
    words = [str(fields["event"]), *(f"{key}={value}" for key, value in fields.items() if key != "event")]
    return (" ".join(words),), {**options, "extra": {_FIELDS: dict(fields)}}


_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    cast("structlog.typing.Processor", _to_record),
]
