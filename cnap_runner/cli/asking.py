"""Asking before something is lost."""

from __future__ import annotations

import typer

from cnap_runner.cli.output import is_interactive
from cnap_runner.errors import InvalidInput


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask, unless ``is_sure``. A no ends the command; without a terminal nobody can be asked, and it is refused."""
    if is_sure:
        return
    if not is_interactive():
        raise InvalidInput("This needs a yes, and there is no terminal to ask on.", hint="Give --yes if you mean it.")
    typer.confirm(question, abort=True, err=True)
