"""The exit codes, in one place. docs/cli.md and ``cnap-runner --help`` show this table."""

from __future__ import annotations

from enum import IntEnum

from cnap_runner.errors import (
    BackendError,
    ConflictError,
    ImageBuildFailed,
    InstanceNotFound,
    InvalidInput,
    LeaseLost,
    MaxContainersReached,
    NotFoundError,
    RunAborted,
    RunnerError,
    RunTimedOut,
    ServerError,
    StoreBusy,
)


class ExitCode(IntEnum):
    """What the process's exit code says."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    ENGINE = 3
    NOT_FOUND = 4
    BUSY = 5
    TIMED_OUT = 6
    UNKNOWN = 7
    ABORTED = 8
    DIFFERENT = 9
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS: dict[ExitCode, str] = {
    ExitCode.SUCCEEDED: "it worked",
    ExitCode.FAILED: "the run failed, doctor found something broken, or any other error",
    ExitCode.USAGE: "what was given cannot work: arguments, settings, ids",
    ExitCode.ENGINE: "the engine, the image or the agent's server is in trouble",
    ExitCode.NOT_FOUND: "there is no such agent, run or container",
    ExitCode.BUSY: "somebody else is at it: an unfinished run, all places taken, a key used twice, a held database",
    ExitCode.TIMED_OUT: "the run's time was over",
    ExitCode.UNKNOWN: "how the run ended cannot be known any more",
    ExitCode.ABORTED: "the run was ended by somebody else: abort, stop, rm",
    ExitCode.DIFFERENT: "`apply --dry-run` found something to do",
    ExitCode.HUNG_UP: "ended by SIGHUP (the terminal was closed), cleanly",
    ExitCode.INTERRUPTED: "ended by Ctrl-C, cleanly",
    ExitCode.BROKEN_PIPE: "whoever read the output went away",
    ExitCode.TERMINATED: "ended by SIGTERM, cleanly",
}

_OF_ERRORS: tuple[tuple[tuple[type[RunnerError], ...], ExitCode], ...] = (
    ((InvalidInput,), ExitCode.USAGE),
    ((NotFoundError, InstanceNotFound), ExitCode.NOT_FOUND),
    ((ConflictError, MaxContainersReached, StoreBusy, LeaseLost), ExitCode.BUSY),
    ((RunTimedOut,), ExitCode.TIMED_OUT),
    ((RunAborted,), ExitCode.ABORTED),
    ((BackendError, ImageBuildFailed, ServerError), ExitCode.ENGINE),
)

_OF_OUTCOMES = {
    "succeeded": ExitCode.SUCCEEDED,
    "failed": ExitCode.FAILED,
    "aborted": ExitCode.ABORTED,
    "timed_out": ExitCode.TIMED_OUT,
    "unknown": ExitCode.UNKNOWN,
}


def code_of_error(error: RunnerError) -> ExitCode:
    """Tell the exit code of an error; the first line of the table that fits counts."""
    return next((code for kinds, code in _OF_ERRORS if isinstance(error, kinds)), ExitCode.FAILED)


def code_of_outcome(outcome: str) -> ExitCode:
    """Tell the exit code of a run's outcome (an `Outcome` is its own text)."""
    return _OF_OUTCOMES[outcome]
