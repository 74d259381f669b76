"""The application: global options, and which command is which function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnap_runner.cli import (
    agent,
    agents,
    answers,
    apply,
    archive,
    demo,
    doctor,
    explain,
    holds,
    image,
    keeping,
    life,
    logs,
    mcp,
    purge,
    recover,
    run,
    runs,
    secret,
    shell,
    task,
    workspace,
)
from cnap_runner.cli.commands import Command, PromptCommand
from cnap_runner.cli.exits import MEANINGS
from cnap_runner.cli.failing import Commands
from cnap_runner.cli.options import Backend, Globals, LogFormat, LogLevel

EPILOG = "Exit codes: " + " · ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."

app = typer.Typer(
    cls=Commands,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(*, is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"cnap-runner {version('cnap-runner')}")
        raise typer.Exit


@app.callback()
def options(  # noqa: PLR0913 - each is an option
    ctx: typer.Context,
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of workspaces, sessions and the database. By default ./data."),
    ] = None,
    backend: Annotated[Backend | None, typer.Option("--backend", help="Where instances live.")] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="What is logged, on standard error.")
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option("--log-format", help="How it is logged.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of settings. By default ./cnap-runner.toml, where there is one."),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option(
            "--version", callback=lambda value: _show_version(is_wanted=value), is_eager=True, help="Say the version."
        ),
    ] = False,
) -> None:
    """Give every AI coding agent its own long-lived OpenCode container.

    Begin with `cnap-runner doctor`, `cnap-runner image build` and `cnap-runner demo`.
    """
    ctx.obj = Globals(data_dir=data_dir, backend=backend, log_level=log_level, log_format=log_format, config=config)


_WORK, _AGENTS, _INSTALL = "Work", "Agents", "Install"

app.command(cls=PromptCommand, rich_help_panel=_WORK)(run.run)
app.command(cls=Command, rich_help_panel=_WORK)(life.abort)
app.command(cls=Command, rich_help_panel=_WORK)(runs.runs)
app.add_typer(task.app, name="task", rich_help_panel=_WORK)
app.command(cls=Command, rich_help_panel=_AGENTS)(agents.ps)
app.command(cls=Command, rich_help_panel=_AGENTS)(explain.explain)
app.command(cls=Command, rich_help_panel=_AGENTS)(logs.logs)
app.command(cls=Command, rich_help_panel=_AGENTS, context_settings={"ignore_unknown_options": True})(shell.shell)
app.command(cls=Command, rich_help_panel=_AGENTS)(life.start)
app.command(cls=Command, rich_help_panel=_AGENTS)(life.stop)
app.command(cls=Command, rich_help_panel=_AGENTS)(holds.pause)
app.command(cls=Command, rich_help_panel=_AGENTS)(holds.hold)
app.command(cls=Command, rich_help_panel=_AGENTS)(holds.release)
app.command(cls=Command, rich_help_panel=_AGENTS)(recover.recover)
app.command(cls=Command, rich_help_panel=_AGENTS)(life.rm)
app.command(cls=Command, rich_help_panel=_AGENTS)(apply.apply)
app.add_typer(answers.app, name="answers", rich_help_panel=_WORK)
app.add_typer(agent.app, name="agent", rich_help_panel=_AGENTS)
app.add_typer(mcp.app, name="mcp", rich_help_panel=_AGENTS)
app.add_typer(secret.app, name="secret", rich_help_panel=_AGENTS)
app.add_typer(workspace.app, name="workspace", rich_help_panel=_AGENTS)
app.command(cls=Command, rich_help_panel=_AGENTS)(archive.export)
app.command("import", cls=Command, rich_help_panel=_AGENTS)(archive.import_)
app.command(cls=Command, rich_help_panel=_INSTALL)(demo.demo)
app.command(cls=Command, rich_help_panel=_INSTALL)(doctor.doctor)
app.add_typer(image.app, name="image", rich_help_panel=_INSTALL)
app.command(cls=Command, rich_help_panel=_INSTALL)(holds.stats)
app.command(cls=Command, rich_help_panel=_INSTALL)(keeping.keeper)
app.command(cls=Command, rich_help_panel=_INSTALL)(purge.purge)
