"""What the engine refuses and why it cannot be reached, in the words of `cnap_runner.errors`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from cnap_runner.errors import (
    BackendError,
    ConflictError,
    EnginePermissionDenied,
    EngineUnavailable,
    ImageNotFound,
    InstanceExited,
    InstanceNotFound,
    InsufficientResources,
    InvalidInput,
    RunnerError,
)

MESSAGE_LIMIT = 300
"""Characters of the engine's own words that are quoted."""


class EngineRefusal(Exception):
    """The engine answered a call with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


_NETWORKS_USED_UP = (
    "Remove networks that nobody uses (`docker network prune`), or widen default-address-pools of the engine."
)
_PORTS = "Find what holds the port, or try again: the engine chooses another one."

# The engine gives no codes beside the HTTP status, so its words decide. Seen on 20.10; the alternatives are of later versions.
_BY_WORDS: tuple[tuple[str, type[RunnerError], str | None], ...] = (
    ("no space left on device", InsufficientResources, None),
    ("disk quota exceeded", InsufficientResources, None),
    ("cannot allocate memory", InsufficientResources, None),
    ("non-overlapping ipv4 address pool", InsufficientResources, _NETWORKS_USED_UP),
    ("address pools have been fully subnetted", InsufficientResources, _NETWORKS_USED_UP),
    ("no available ipv4 addresses", InsufficientResources, "Stop agents that are not needed."),
    ("no such image", ImageNotFound, None),
    ("invalid reference format", InvalidInput, "Give the image's name as NAME:TAG."),
    ("no such container", InstanceNotFound, None),
    ("no such exec instance", InstanceExited, None),
    ("is not running", InstanceExited, None),
    ("is paused", ConflictError, "Resume it first."),
    (
        "unable to set memory limit",
        InsufficientResources,
        "Give it more, or stop the agent: its next start has the limit.",
    ),
    ("could not select device driver", InvalidInput, "The engine has no GPUs to give; leave resources.gpus out."),
    ("unknown or invalid runtime name", InvalidInput, None),
    ("minimum memory limit", InvalidInput, None),
)
_PORT_WORDS = ("port is already allocated", "address already in use", "all ports are allocated")


def error_of(refusal: EngineRefusal, *, what: str, otherwise: type[RunnerError] = BackendError) -> RunnerError:
    """Say a refusal in our words. ``what`` names the attempt ("Creating agent-1 failed"); ``otherwise`` is for unknown words."""
    words = refusal.message.lower()
    for fragment, error, hint in _BY_WORDS:
        if fragment in words:
            return error(f"{what}: {one_line(refusal.message)}.", hint=hint)
    hint = _PORTS if any(fragment in words for fragment in _PORT_WORDS) else None
    return otherwise(f"{what}: {one_line(refusal.message)}.", hint=hint)


@contextmanager
def translated(what: str, *, otherwise: type[RunnerError] = BackendError) -> Iterator[None]:
    """Raise refusals of the engine as errors of ours."""
    try:
        yield
    except EngineRefusal as refusal:
        raise error_of(refusal, what=what, otherwise=otherwise) from refusal


def unreachable(host: str, error: BaseException) -> RunnerError:
    """Say why no answer came: the engine does not let this user in, or it is not there."""
    if any(isinstance(cause, PermissionError) for cause in causes(error)):
        return EnginePermissionDenied(f"This user may not talk to the Docker Engine at {host}.")
    for cause in causes(error):
        if isinstance(cause, ssl.SSLError):
            return EngineUnavailable(
                f"No trusted connection to the Docker Engine at {host}: {one_line(str(cause))}.",
                hint="Look at DOCKER_TLS_VERIFY and the files in DOCKER_CERT_PATH.",
            )
    if any(isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__ for cause in causes(error)):
        return EngineUnavailable(f"The Docker Engine at {host} did not answer in time.")
    return EngineUnavailable(f"No Docker Engine answers at {host}.")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that led to it. HTTP libraries hide the system's error in causes, contexts and arguments alike."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        waiting.extend(other for other in linked if isinstance(other, BaseException))


def one_line(text: str) -> str:
    """Give the engine's words without line ends and full stop; of a long chain of causes the last, which says most."""
    words = " ".join(text.split()).rstrip(". ")
    return words if len(words) <= MESSAGE_LIMIT else "…" + words[1 - MESSAGE_LIMIT :]
