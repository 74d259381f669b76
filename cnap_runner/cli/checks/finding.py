"""What a check finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cnap_runner.errors import RunnerError

if TYPE_CHECKING:
    from cnap_runner.settings import Settings


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``doctor``."""

    check: str
    state: State
    message: str
    hint: str | None = None


Check = Callable[["Settings"], Awaitable[list[Finding]]]


def failed_by(check: str, error: RunnerError) -> Finding:
    """Make a finding of an error."""
    # Errors from elsewhere advise to ask doctor, who is speaking here.
    hint, is_ours, _ = (error.hint or "").partition("; `cnap-runner doctor`")
    return Finding(check, State.FAIL, error.message, f"{hint}." if is_ours else error.hint)
