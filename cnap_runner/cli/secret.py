"""``cnap-runner secret``: what is kept for agents. A value is never an argument: others could read it in the list of processes."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnap_runner.cli import install
from cnap_runner.cli.asking import ask_hidden
from cnap_runner.cli.commands import Command, Group
from cnap_runner.cli.options import Agent, Json, settings_of
from cnap_runner.cli.output import is_terminal, note, print_table, table, write_json
from cnap_runner.cli.running import run_async
from cnap_runner.errors import InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.runner.secrecy.keeping import SecretUse
    from cnap_runner.settings import Settings

app = typer.Typer(cls=Group, no_args_is_help=True, help="Keep the secrets that agents use.")

LARGEST_INPUT = 1 << 20
"""Bytes that are read from standard input at most."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret's name; an agent's spec says vault:NAME.")]
Source = Annotated[
    Literal["vault", "keyring"],
    typer.Option("--source", help="The install's encrypted file, or the keyring of the operating system."),
]


@app.command("set", cls=Command)
def set_secret(ctx: typer.Context, name: Name, source: Source = "vault", is_json: Json = False) -> None:
    """Keep a secret, or replace it. Its value is asked for without showing it, or read from standard input."""
    from cnap_runner.secrets.names import check_name

    check_name(name)
    run_async(partial(_set, settings_of(ctx, is_quiet=True), name, _read_value(name), source, is_json))


async def _set(settings: Settings, name: str, value: str, source: str, is_json: bool, _: Interrupts) -> None:
    async with install.opened(settings, must_exist=False) as manager:
        agents = await manager.put_secret(name, value, source=source)
    if is_json:
        write_json({"reference": f"{source}:{name}", "agents": agents})
        return
    note(f"kept as {source}:{name}")
    if agents:
        note(
            f"{', '.join(agents)}: the new value comes with the next start; `cnap-runner secret rotate AGENT` brings it at once."
        )


@app.command("ls", cls=Command)
def list_secrets(ctx: typer.Context, is_json: Json = False) -> None:
    """List the names of secrets that are kept or used, and the agents that use them. Values are never shown."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_list, settings, is_json))
    else:
        _show([], is_json=is_json)


async def _list(settings: Settings, is_json: bool, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        _show(await manager.list_secrets(), is_json=is_json)


def _show(found: list[SecretUse], *, is_json: bool) -> None:
    if is_json:
        write_json(found, indent=2)
    elif found:
        made = table("SECRET", "AGENTS", "")
        for use in found:
            made.add_row(use.reference, ", ".join(use.agents), "missing" if use.is_kept is False else "")
        print_table(made)
    else:
        note("There are no secrets.")


@app.command("rm", cls=Command)
def remove_secret(
    ctx: typer.Context,
    name: Name,
    source: Source = "vault",
    is_forced: Annotated[bool, typer.Option("--force", help="Even if an agent uses it.")] = False,
    is_json: Json = False,
) -> None:
    """Forget a secret. One that an agent uses is kept, unless --force is given: that agent could not start any more."""
    run_async(partial(_remove, settings_of(ctx, is_quiet=True), name, source, is_forced, is_json))


async def _remove(settings: Settings, name: str, source: str, is_forced: bool, is_json: bool, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        await manager.delete_secret(name, source=source, force=is_forced)
    if is_json:
        write_json({"reference": f"{source}:{name}"})
    else:
        note(f"{source}:{name} is removed")


@app.command(cls=Command)
def rotate(ctx: typer.Context, agent: Agent) -> None:
    """Read an agent's secrets anew and bring them into its running container, without a restart."""
    run_async(partial(_rotate, settings_of(ctx, keep=True), agent))


async def _rotate(settings: Settings, agent_id: str, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        await manager.rotate_secrets(agent_id)
    note(f"agent {agent_id} has its secrets' present values")


def _read_value(name: str) -> str:
    if sys.stdin is None:  # what Python makes of one that was closed before its start
        raise InvalidInput("The value is read from standard input, and that is closed.")
    if is_terminal(sys.stdin):
        return ask_hidden(f"Value of {name}")
    try:
        return re.sub(r"\r?\n\Z", "", sys.stdin.buffer.read(LARGEST_INPUT).decode())
    except UnicodeDecodeError:
        raise InvalidInput("The value on standard input is not UTF-8 text.") from None
