"""Asking people: before something is lost, and for what must not be seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cnap_runner.cli.exits import ExitCode
from cnap_runner.cli.output import is_interactive
from cnap_runner.errors import InvalidInput


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask, unless ``is_sure``. A no ends the command with 1, Ctrl-C with 130; without a terminal nobody can be asked, and it is refused."""
    if is_sure:
        return
    if not is_interactive():
        raise InvalidInput("This needs a yes, and there is no terminal to ask on.", hint="Give --yes if you mean it.")
    with _interruptible():
        typer.confirm(question, abort=True, err=True)


def ask_hidden(question: str) -> str:
    """Ask twice for what must not be seen. Ctrl-C ends the command with 130."""
    with _interruptible():
        answer: str = typer.prompt(question, hide_input=True, confirmation_prompt=True, err=True)
        return answer


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except typer.Abort as error:
        # Typer makes one of Ctrl-C, of the end of input and of a no; only what it came from tells them apart.
        if isinstance(error.__context__, KeyboardInterrupt):
            typer.echo(err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        raise
