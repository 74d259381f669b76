"""``cnap-runner mcp``: the MCP servers of an agent."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.commands import Command, Group
from cnap_runner.cli.editing import edit_agent, pairs
from cnap_runner.cli.options import Agent, Json, settings_of
from cnap_runner.cli.output import brief, note, print_table, redacted_data, table, write_json
from cnap_runner.cli.running import run_async
from cnap_runner.errors import BackendError, InvalidInput, NotFoundError, ServerError

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.runner.runner import Runner
    from cnap_runner.settings import Settings

WIDTH = 60

app = typer.Typer(cls=Group, no_args_is_help=True, help="Give agents MCP servers, and look at those they have.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The server's name within the agent.")]


@app.command(cls=Command)
def add(  # noqa: PLR0913 - each is an option
    ctx: typer.Context,
    *,
    agent: Agent,
    name: Name,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="A program inside and its arguments, after `--`.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="A server reached by HTTP instead.")] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", help="NAME=VALUE, sent with each request. '${NAME}' is a secret.")
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--env", help="NAME=VALUE for the program. '${NAME}' is a secret.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="How long its answers may take: 10 (seconds), 500ms.")
    ] = None,
    is_disabled: Annotated[bool, typer.Option("--disabled", help="Known, but not started.")] = False,
) -> None:
    """Give an agent an MCP server; one of that name is replaced."""
    if (url is None) == (not command):
        raise InvalidInput(
            "Give either a command, after `--`, or --url.",
            hint=f"For example: cnap-runner mcp add {agent} {name} -- npx -y x",
        )
    if (headers and url is None) or (environment and url is not None):
        raise InvalidInput("--header belongs to --url, and --env to a command.")
    server: dict[str, Any] = {"command": command} if url is None else {"url": url}
    if headers:
        server["headers"] = pairs(headers, what="A header")
    if environment:
        server["environment"] = pairs(environment, what="A variable")
    if timeout is not None:
        server["timeout"] = _milliseconds(timeout)
    if is_disabled:
        server["enabled"] = False

    def edit(data: dict[str, Any]) -> None:
        data.setdefault("mcp", {})[name] = server

    run_async(lambda _: edit_agent(settings_of(ctx), agent, edit))


@app.command(cls=Command)
def rm(
    ctx: typer.Context,
    agent: Agent,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names of servers.")] = None,
) -> None:
    """Take MCP servers from an agent."""
    if not names:
        raise InvalidInput("Name at least one server.", hint=f"`cnap-runner mcp ls {agent}` lists them.")
    unwanted = list(dict.fromkeys(names))

    def edit(data: dict[str, Any]) -> None:
        for name in unwanted:
            if data.get("mcp", {}).pop(name, None) is None:
                raise NotFoundError(
                    f"Agent {agent} has no MCP server {name!r}.", hint=f"`cnap-runner mcp ls {agent}` lists them."
                )

    run_async(lambda _: edit_agent(settings_of(ctx), agent, edit))


@app.command(cls=Command)
def ls(ctx: typer.Context, agent: Agent, is_json: Json = False) -> None:
    """List an agent's MCP servers, with the state its OpenCode server reports where it runs."""
    run_async(partial(_ls, settings_of(ctx, is_quiet=True), agent, is_json))


async def _ls(settings: Settings, agent_id: str, is_json: bool, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        shown = redacted_data(await _lines(await manager.get_runner(agent_id)))
    if is_json:
        write_json(shown, indent=2)
    elif shown:
        made = table("NAME", "KIND", "WHAT", "STATE", "ERROR")
        for line in shown:
            made.add_row(
                line["name"], line["kind"], brief(line["what"], WIDTH), line["state"], brief(line["error"] or "", WIDTH)
            )
        print_table(made)
    else:
        note(f"Agent {agent_id} has no MCP servers.")


async def _lines(runner: Runner) -> list[dict[str, Any]]:
    live = await _live_states(runner)
    names = [*runner.spec.mcp, *(name for name in live if name not in runner.spec.mcp)]
    return [_line(runner, name, live) for name in names]


async def _live_states(runner: Runner) -> dict[str, tuple[str, str | None]]:
    try:
        return {state.name: (str(state.status), state.error) for state in await runner.mcp()}
    except (BackendError, ServerError) as error:
        note(f"The live state is not known: {error.message}", style="dim")
        return {}


def _line(runner: Runner, name: str, live: dict[str, tuple[str, str | None]]) -> dict[str, Any]:
    server = runner.spec.mcp.get(name)
    state, error = live.get(name, ("unknown" if server is None or server.enabled else "disabled", None))
    what = "" if server is None else " ".join(server.command) if server.type == "local" else server.url
    return {"name": name, "kind": server.type if server else "template", "what": what, "state": state, "error": error}


def _milliseconds(text: str) -> int:
    from cnap_runner.model.durations import parse_duration

    wanted: timedelta = parse_duration(text)
    return round(wanted.total_seconds() * 1000)
