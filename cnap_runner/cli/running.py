"""Running a command's coroutine, so that Ctrl-C, SIGTERM and SIGHUP end it cleanly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cnap_runner.cli.failing import root_cause

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Main


def run_async(main: Main) -> None:
    """Run a command's coroutine to its end and exit with the code it gives."""
    import anyio

    from cnap_runner.cli.interrupts import Interrupts

    try:
        code = anyio.run(Interrupts().guard, main)
    except BaseExceptionGroup as group:
        raise root_cause(group) from group
    if code:
        raise typer.Exit(code)
