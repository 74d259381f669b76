"""The engine's words in ours. The messages are those of Engine 20.10 and of later versions."""

from __future__ import annotations

import pytest

from cnap_runner.backends.docker.trouble import EngineRefusal, causes, error_of, one_line, unreachable
from cnap_runner.errors import (
    BackendError,
    ConflictError,
    EnginePermissionDenied,
    EngineUnavailable,
    ImageNotFound,
    InstanceExited,
    InstanceNotFound,
    InstanceStartFailed,
    InsufficientResources,
    InvalidInput,
    RunnerError,
)

DRIVER = "driver failed programming external connectivity on endpoint x: "


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (404, "No such image: cnap-runner:latest", ImageNotFound),
        (400, "invalid reference format", InvalidInput),
        (400, "Minimum memory limit allowed is 6MB", InvalidInput),
        (404, "No such container: 0000", InstanceNotFound),
        (409, "Container 0000 is not running", InstanceExited),
        (409, "Container 0000 is paused, unpause the container before exec", ConflictError),
        (500, "mkdir /var/lib/docker/overlay2/x: no space left on device", InsufficientResources),
        (500, "fork/exec /usr/bin/runc: cannot allocate memory", InsufficientResources),
        (
            404,
            "could not find an available, non-overlapping IPv4 address pool among the defaults",
            InsufficientResources,
        ),
        (400, "all predefined address pools have been fully subnetted", InsufficientResources),
        (500, "no available IPv4 addresses on this network's address pools: x", InsufficientResources),
        (500, DRIVER + "Bind for 127.0.0.1:32768 failed: port is already allocated", InstanceStartFailed),
        (400, 'OCI runtime create failed: exec: "serve": executable file not found in $PATH', InstanceStartFailed),
        (404, "network 0000 not found", InstanceStartFailed),
    ],
)
def test_each_refusal_has_its_error(status: int, message: str, error: type[RunnerError]) -> None:
    """What the engine says decides; what is unknown is what the verb says it is. The engine's words are quoted."""
    told = error_of(EngineRefusal(status, message), what="Starting i-1 failed", otherwise=InstanceStartFailed)

    assert type(told) is error
    assert told.message.startswith("Starting i-1 failed: ")
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "message",
    ["non-overlapping IPv4 address pool", "port is already allocated", "No such image: x", "no space left on device"],
)
def test_what_can_be_mended_says_how(message: str) -> None:
    """A hint is given where there is something to do."""
    assert error_of(EngineRefusal(500, message), what="Creating failed").hint


def test_unknown_words_are_quoted() -> None:
    """Nothing is guessed."""
    told = error_of(EngineRefusal(500, "the moon\nis full."), what="Stopping i-1 failed")

    assert type(told) is BackendError
    assert told.message == "Stopping i-1 failed: the moon is full."


def test_a_hidden_permission_error_is_found() -> None:
    """HTTP libraries bury the system's error; it decides all the same."""
    hidden = ConnectionError("aborted", OSError("protocol", PermissionError(13, "denied")))

    assert type(unreachable("unix:///s", hidden)) is EnginePermissionDenied
    assert type(unreachable("unix:///s", ConnectionRefusedError())) is EngineUnavailable
    assert "in time" in str(unreachable("unix:///s", TimeoutError()))


def test_errors_that_cause_each_other_are_followed_once() -> None:
    """A ring of causes is no endless loop."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert list(causes(first)) == [first, second]


def test_of_a_long_message_the_end_is_kept() -> None:
    """The last cause in a chain says most."""
    told = one_line("outer: " * 200 + "the real reason.")

    assert len(told) == 300
    assert told.startswith("…")
    assert told.endswith("the real reason")
