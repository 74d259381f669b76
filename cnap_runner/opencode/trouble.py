"""What goes wrong with a call, in our words. Errors carry no secrets: neither the password nor a prompt."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn

import httpx
import httpx_sse

from cnap_runner.errors import ServerRefusedPassword, ServerRejected, ServerUnreachable, SessionNotFound
from cnap_runner.opencode.bounds import parse_json
from cnap_runner.opencode.wire import parse_failure, parse_settings_trouble

_LONGEST_QUOTE = 300


class ConnectionLost(ServerUnreachable):
    """The connection broke after the request may have left: whether the server got it is not known."""


class SettingsRefused(ServerRejected):
    """The server cannot read its settings. It never will, until its process is started anew."""

    code = "settings_refused"


class translated:  # noqa: N801 - used like a function
    """Translates httpx's errors. A class, not a generator: it stands on the path of every request and event."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol):
            raise ServerUnreachable(f"The server does not answer ({_reason(error)}).") from error
        if isinstance(error, httpx.TransportError | TimeoutError):
            raise ConnectionLost(f"The connection to the server broke ({_reason(error)}).") from error
        if isinstance(error, httpx.DecodingError | httpx_sse.SSEError | UnicodeDecodeError):
            raise ServerRejected("The server's answer cannot be decoded.") from error


def _reason(error: Exception) -> str:
    return str(error)[:_LONGEST_QUOTE] or type(error).__name__


def json_of(response: httpx.Response) -> Any:
    """Give what a response says. Raises `ServerRejected` for what is no JSON."""
    try:
        return parse_json(response.content)
    except ValueError as error:
        raise ServerRejected(
            f"The server answered {response.request.url.path} with something that is no JSON."
        ) from error


def refuse(response: httpx.Response) -> NoReturn:
    """Raise the error that a response of another status than success means."""
    status, path = response.status_code, response.request.url.path
    if status == httpx.codes.UNAUTHORIZED:
        raise ServerRefusedPassword("OpenCode does not accept the password.")
    try:
        error = parse_json(response.content)
    except ValueError:
        error = None
    if (trouble := parse_settings_trouble(error)) is not None:
        raise SettingsRefused(
            f"OpenCode cannot read its settings: {trouble}.",
            hint="Correct the agent's opencode, mcp or opencode_files.",
        )
    failure = parse_failure(error)
    said = "" if failure is None else f": {failure.name}: {failure.message[:_LONGEST_QUOTE]}"
    if status == httpx.codes.NOT_FOUND and failure is not None and path.startswith("/session/"):
        raise SessionNotFound(f"OpenCode does not know the session{said}.")
    raise ServerRejected(f"OpenCode answered {response.request.method} {path} with {status}{said}.", status=status)
