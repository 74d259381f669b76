"""docs/cli.md says all there is."""

from __future__ import annotations

import json
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from cnap_runner.cli.app import app
from cnap_runner.cli.exits import MEANINGS
from cnap_runner.settings import Settings

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


def section(name: str) -> list[str]:
    """The lines of a table that is compared with the code."""
    text = DOCS.read_text(encoding="utf-8")
    return text.split(f"<!-- {name}:")[1].split("-->\n", 1)[1].split("<!-- end -->")[0].splitlines()


def exits_table() -> list[str]:
    """The table of exit codes, as it should be."""
    return ["| code | meaning |", "|---|---|", *(f"| {int(code)} | {text} |" for code, text in MEANINGS.items())]


def settings_table() -> list[str]:
    """The table of settings, as it should be."""
    rows = [
        f"| `CNAP_RUNNER_{name.upper()}` | {shown(field.get_default(call_default_factory=True))} | {meaning(field.description)} |"
        for name, field in Settings.model_fields.items()
    ]
    return ["| variable | default | meaning |", "|---|---|---|", *rows]


def shown(value: Any) -> str:
    """A default as one would write it in a variable."""
    if isinstance(value, timedelta):
        return f"`{value.total_seconds():g}s`"
    if value is None:
        return "not set"
    if isinstance(value, tuple | bool | dict):
        return f"`{json.dumps(value)}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def meaning(description: str | None) -> str:
    """A field's docstring on one line."""
    return " ".join((description or "").replace("|", "\\|").replace("``", "`").split())


def test_the_table_of_exit_codes_is_complete() -> None:
    """What a script can rely on is written down."""
    assert section("exit codes") == exits_table()


def test_the_table_of_settings_is_complete() -> None:
    """Each setting is there with its variable, default and meaning."""
    assert section("settings") == settings_table()


def test_every_command_has_an_example() -> None:
    """Nothing has to be guessed from the help."""
    text = DOCS.read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for sub in getattr(command, "commands", [""]):
            assert f"cnap-runner {name} {sub}".strip() in text, (name, sub)
