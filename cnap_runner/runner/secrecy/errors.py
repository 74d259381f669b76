"""Errors without secrets, before any caller sees them: an engine or a server may repeat what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cnap_runner.errors import RunnerError
from cnap_runner.telemetry.redaction import Redactor


@contextmanager
def redacted_errors(redactor: Redactor) -> Iterator[None]:
    """Let errors of ours leave the block without secrets in their message and hint."""
    try:
        yield
    except RunnerError as error:
        redact_error(error, redactor)
        raise


def redact_error(error: RunnerError, redactor: Redactor) -> None:
    """Replace secrets in an error's message and hint, in place: its class, cause and other fields stay."""
    error.message = redactor.redact(error.message)
    error.hint = error.hint and redactor.redact(error.hint)
    error.args = (error.message,)
