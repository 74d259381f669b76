"""Logs are events with fields, redacted, and nobody's global set-up is touched unasked."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from cnap_runner.telemetry.logging import about, bind, configure_logging, get_logger
from cnap_runner.telemetry.redaction import Redactor

SECRET = "planted-secret-value"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where logs go; afterwards the process is as it was."""
    root, ours = logging.getLogger(), logging.getLogger("cnap_runner")
    handlers, level = list(root.handlers), ours.level
    yield io.StringIO()
    root.handlers[:] = handlers
    ours.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _fail_with(text: str) -> None:
    raise RuntimeError(text)


def test_an_event_is_one_line_of_json(stream: io.StringIO) -> None:
    """Time, level, logger, event, fields and the ids bound around it are in one object."""
    configure_logging("info", "json", Redactor(), stream=stream)
    with bound_contextvars(agent_id="alice"):
        get_logger("cnap_runner.runner").info("runner_stopped", reason="idle", count=3)
    [line] = lines(stream)
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "cnap_runner.runner",
        "event": "runner_stopped",
        "reason": "idle",
        "count": 3,
        "agent_id": "alice",
    }


def test_the_level_holds(stream: io.StringIO) -> None:
    """Events below the level are not written."""
    configure_logging("warning", "json", Redactor(), stream=stream)
    log = get_logger("cnap_runner.runner")
    log.info("runner_started")
    log.warning("stop_failed")
    assert [line["event"] for line in lines(stream)] == ["stop_failed"]


def test_configuring_again_replaces(stream: io.StringIO) -> None:
    """After a second call there is one line, in the new format."""
    configure_logging("info", "json", Redactor(), stream=stream)
    configure_logging("info", "console", Redactor(), stream=stream)
    get_logger("cnap_runner").info("runner_started", agent_id="alice")
    [line] = stream.getvalue().splitlines()
    assert "runner_started" in line
    assert "agent_id=alice" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_is_in_no_line(stream: io.StringIO, log_format: Any) -> None:
    """Wherever a known value stands (event, field, key, object, traceback, another library), it is replaced."""
    configure_logging("info", log_format, Redactor([SECRET]), stream=stream)
    log = get_logger("cnap_runner.runner")
    event = f"said_{SECRET}"
    log.info(event, nested={"list": [SECRET], SECRET: 1}, raw=SECRET.encode(), thing=ValueError(SECRET))
    log.info("model_called", api_key="short", url="https://bob:pass1@host/")
    with bound_contextvars(token=SECRET):
        try:
            _fail_with(SECRET)
        except RuntimeError:
            log.exception("it_failed")
    logging.getLogger("other.library").warning("sent %s", SECRET)
    told = stream.getvalue()
    assert SECRET not in told
    assert "short" not in told
    assert "pass1" not in told
    assert "RuntimeError" in told
    assert told.count("[redacted]") >= 8


def test_other_libraries_are_heard_from_warnings_on(stream: io.StringIO) -> None:
    """A library's warning is an event of ours with its message; what it says at info is not shown."""
    configure_logging("debug", "json", Redactor(), stream=stream)
    library = logging.getLogger("other.library")
    library.setLevel("DEBUG")
    library.info("chatter")
    library.warning("disk %s", "full")
    [line] = lines(stream)
    assert (line["event"], line["message"], line["logger"]) == ("library_log", "disk full", "other.library")


def test_a_late_wake_up_is_not_worth_a_line(stream: io.StringIO) -> None:
    """What asyncio says of a reader that was cancelled as its socket became ready means nothing; all else it says is written."""
    configure_logging("warning", "json", Redactor(), stream=stream)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            waiter = loop.create_future()
            loop.add_reader(ours, waiter.set_result, None)
            theirs.send(b"x")
            waiter.cancel()
            await asyncio.sleep(0.01)
            loop.remove_reader(ours)
        loop.call_soon(_fail_with, "of another kind")
        await asyncio.sleep(0.01)

    asyncio.run(main())  # a loop of its own: the tests' own makes a failure of what is only said to the log
    [line] = lines(stream)
    assert line["message"].startswith("Exception in callback _fail_with(")


def test_structlogs_own_loggers_go_the_same_way(stream: io.StringIO) -> None:
    """`structlog.get_logger` in a module of ours writes the same lines once logging is configured."""
    configure_logging("info", "json", Redactor(), stream=stream)
    structlog.get_logger("cnap_runner.store").info("store_opened", path="x")
    logging.getLogger("cnap_runner.backends").info("engine_asked")
    assert [(line["logger"], line["event"]) for line in lines(stream)] == [
        ("cnap_runner.store", "store_opened"),
        ("cnap_runner.backends", "engine_asked"),
    ]


def test_a_terminal_is_not_steered(stream: io.StringIO) -> None:
    """Control characters of an agent's output are escaped on the console."""
    configure_logging("info", "console", Redactor(), stream=stream)
    get_logger("cnap_runner").info("agent_said", text="\x1b[2Jgone\n2026 runner_stopped")
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_without_being_asked_nothing_is_set_up(caplog: pytest.LogCaptureFixture) -> None:
    """Used as a library, events reach the program's own handlers as readable messages, and only from its level on."""
    log = get_logger("cnap_runner.runner")
    with caplog.at_level("INFO", logger="cnap_runner"):
        log.debug("unheard")
        log.info("runner_stopped", reason="idle")
    assert [record.getMessage() for record in caplog.records] == ["runner_stopped reason=idle"]


def test_a_program_that_only_imports_hears_nothing() -> None:
    """Info events of a library go nowhere, least of all to standard output."""
    code = "from cnap_runner.telemetry.logging import get_logger; get_logger('cnap_runner.x').info('runner_started')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_ids_are_bound_for_a_block_and_no_longer() -> None:
    """What becomes known in the middle of a block ends with it too; what was bound before is as it was, and a caller's own stays."""
    with bound_contextvars(agent_id="outer", request="mine"):
        with about(agent_id="alice", run_id="r-1"):
            bind(instance_id="i-1")
            inside = structlog.contextvars.get_contextvars()
        assert structlog.contextvars.get_contextvars() == {"agent_id": "outer", "request": "mine"}
    assert inside == {"agent_id": "alice", "run_id": "r-1", "instance_id": "i-1", "request": "mine"}
