"""Arguments and options that several commands share, and the global ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from cnap_runner.settings import Settings

Backend = Literal["docker", "process"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the command. What is None comes from the environment or the TOML file."""

    data_dir: Path | None = None
    backend: Backend | None = None
    log_level: LogLevel | None = None
    log_format: LogFormat | None = None
    config: Path | None = None

    def settings(self, **fixed: Any) -> Settings:
        """Load the settings; ``fixed`` is what the command itself decides."""
        from cnap_runner.settings import CONFIG_VARIABLE, Settings

        if self.config is not None:
            os.environ[CONFIG_VARIABLE] = str(self.config)
        names = ("data_dir", "backend", "log_level", "log_format")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Settings(**given, **fixed)


def settings_of(
    ctx: typer.Context,
    *,
    keep: bool = False,
    is_warm: bool = False,
    is_stopping: bool = False,
    is_quiet: bool = False,
    **fixed: Any,
) -> Settings:
    """Load the settings of this call.

    ``keep`` leaves the agents it uses running; ``is_warm`` does so where ``on_shutdown`` is not set; ``is_stopping`` stops them. ``is_quiet`` is for commands that tell in their own words what the log would warn of; a level that was asked for counts all the same.
    """
    if keep or is_stopping:
        fixed["on_shutdown"] = "stop" if is_stopping else "leave"
    settings: Settings = ctx.obj.settings(**fixed)
    if is_warm and "on_shutdown" not in settings.model_fields_set:
        settings = settings.model_copy(update={"on_shutdown": "leave"})
    if is_quiet and "log_level" not in settings.model_fields_set:
        return settings.model_copy(update={"log_level": "error"})
    return settings


def complete_agent(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the agents of the install: their folders, which costs no database."""
    root = ctx.find_root()
    chosen = root.params.get("data_dir") or os.environ.get("CNAP_RUNNER_DATA_DIR", "data")
    try:
        return sorted(path.name for path in Path(chosen, "agents").iterdir() if path.name.startswith(incomplete))
    except OSError:
        return []


Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.", autocompletion=complete_agent)]
Agents = Annotated[
    list[str] | None, typer.Argument(metavar="AGENT", help="Ids of agents.", autocompletion=complete_agent)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the container running at the end.")]
Warm = Annotated[bool, typer.Option("--keep", hidden=True)]
"""What is the default now was asked for by this once; scripts may go on to."""
Stop = Annotated[
    bool, typer.Option("--stop", help="Stop the container at the end, unless somebody else uses the agent.")
]
