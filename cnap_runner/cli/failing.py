"""What goes wrong, told in one line with what to do; never a traceback, unless one is asked for by ``--log-level debug``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from cnap_runner.cli.commands import Group
from cnap_runner.cli.exits import ExitCode, code_of_error
from cnap_runner.errors import RunnerError, SecretWarning


class Commands(Group):
    """The commands; their errors become one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with _shown_warnings():
                return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _broken_pipe() from error
        except RunnerError as error:
            _show_traceback_to_debuggers(ctx)
            tell(error)
            raise typer.Exit(code_of_error(error)) from error
        except Exception as error:
            if _is_click(error):
                raise
            _show_traceback_to_debuggers(ctx)
            tell(RunnerError(f"Unexpected {type(error).__name__}: {error}", hint=_UNEXPECTED))
            raise typer.Exit(ExitCode.FAILED) from error


_UNEXPECTED = "This is a defect of cnap-runner. `cnap-runner --log-level debug …` shows where."


def tell(error: RunnerError) -> None:
    """Say an error, and below it what to do; without what looks like a secret. Known values were redacted where they are known."""
    from cnap_runner.cli.output import note
    from cnap_runner.telemetry.redaction import Redactor

    redact = Redactor().redact
    note(f"error: {redact(error.message)}", style="red")
    if error.hint:
        note(f"hint: {redact(error.hint)}")


def is_debugging(ctx: typer.Context) -> bool:
    """Whether tracebacks are wanted."""
    level = getattr(ctx.obj, "log_level", None) or os.environ.get("CNAP_RUNNER_LOG_LEVEL", "")
    return str(level).lower() == "debug"


def root_cause(error: BaseException) -> BaseException:
    """Give what a task group wrapped: its first error of ours, else its first."""
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, RunnerError)), error.exceptions[0])
    return error


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Say our own warnings as one line each, however Python was told to treat warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SecretWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, SecretWarning):
                from cnap_runner.cli.output import note

                note(f"warning: {message}", style="yellow")
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _show_traceback_to_debuggers(ctx: typer.Context) -> None:
    if is_debugging(ctx):
        import traceback

        traceback.print_exc(file=sys.stderr)


def _is_click(error: BaseException) -> bool:
    """Whether Typer knows by itself what this exception means: its exits, and errors of usage."""
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code")


def _broken_pipe() -> typer.Exit:
    """Leave quietly: what Python still has to flush goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return typer.Exit(ExitCode.BROKEN_PIPE)
