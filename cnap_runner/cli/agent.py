"""``cnap-runner agent``: what is wanted of agents."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.commands import Command, Group
from cnap_runner.cli.editing import assign, edit_agent
from cnap_runner.cli.options import Agent, Json, settings_of
from cnap_runner.cli.output import note, plain, print_table, redacted_data, table, write, write_json
from cnap_runner.cli.running import run_async
from cnap_runner.errors import InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.agent import AgentSpec
    from cnap_runner.runner.runner import Runner
    from cnap_runner.settings import Settings

app = typer.Typer(cls=Group, no_args_is_help=True, help="Look at agents' specs, and change them.")


@app.command(cls=Command)
def ls(ctx: typer.Context, is_json: Json = False) -> None:
    """List the agents and what is wanted of them; `ps` tells what they do."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_ls, settings, is_json))
    elif is_json:
        write_json([], indent=2)
    else:
        note("There are no agents.")


async def _ls(settings: Settings, is_json: bool, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        runners = await manager.list_runners()
        if is_json:
            write_json([_shown(runner.spec) for runner in runners], indent=2)
        elif runners:
            print_table(_table(runners, settings))
        else:
            note("There are no agents.")


def _table(runners: list[Runner], settings: Settings) -> Any:
    made = table("AGENT", "STATUS", "MODEL", "IMAGE", "MEMORY", "EGRESS", "MCP", "SECRETS", "LABELS")
    for runner in runners:
        spec: AgentSpec = runner.spec
        made.add_row(
            spec.agent_id,
            str(runner.status),
            spec.model,
            spec.image or settings.image,
            f"{spec.resources.memory_mb or settings.memory_mb} MiB",
            spec.egress.mode,
            " ".join(spec.mcp),
            " ".join(spec.secrets),
            " ".join(f"{name}={value}" for name, value in spec.labels.items()),
        )
    return made


@app.command(cls=Command)
def show(
    ctx: typer.Context,
    agent: Agent,
    is_spec: Annotated[bool, typer.Option("--spec", help="Only the spec, as `apply` reads it.")] = False,
    is_json: Json = False,
) -> None:
    """Show an agent's whole spec, its status and instance, and which change waits for what."""
    run_async(partial(_show, settings_of(ctx, is_quiet=True), agent, is_spec, is_json))


async def _show(settings: Settings, agent_id: str, is_spec: bool, is_json: bool, _: Interrupts) -> None:
    from cnap_runner.cli.yaml_text import to_yaml

    async with install.looked_into(settings) as manager:
        runner = await manager.get_runner(agent_id)
        shown = _shown(runner.spec) if is_spec else await _described(runner)
        if is_json:
            write_json(shown, indent=2)
        else:
            write(to_yaml(plain(shown)))


async def _described(runner: Runner) -> dict[str, Any]:
    record = runner.record
    state = {
        "status": str(record.status),
        "since": record.changed_at,
        "reason": record.reason,
        "instance": record.instance_id,
        "handle": record.handle,
        "generation": record.generation,
        "endpoint": record.endpoint,
        "started_at": record.started_at,
    }
    pending = redacted_data(await runner.pending_changes())
    return {"spec": _shown(runner.spec), "runner": state, "pending": pending}


def _shown(spec: AgentSpec) -> dict[str, Any]:
    """Give a spec as data; what looks like a secret is left out, where secrets come from is not."""
    from cnap_runner.runner.declarations import spec_data

    data: dict[str, Any] = redacted_data(spec_data(spec))
    return data | ({"secrets": dict(spec.secrets)} if spec.secrets else {})


@app.command("set", cls=Command)
def set_fields(
    ctx: typer.Context,
    agent: Agent,
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="FIELD=VALUE", help="For example model=openai/gpt-5 or resources.memory_mb=4096."),
    ] = None,
) -> None:
    """Change fields of an agent's spec; `FIELD=` takes one out, so that its default counts again.

    What changed applies to a running agent at once where it can, otherwise before its next turn: `agent show` says which.
    """
    if not fields:
        raise InvalidInput(
            "Name at least one field.", hint=f"For example: cnap-runner agent set {agent} model=openai/gpt-5"
        )
    assignments = list(fields)

    def edit(data: dict[str, Any]) -> None:
        for assignment in assignments:
            assign(data, assignment)

    run_async(lambda _: edit_agent(settings_of(ctx), agent, edit))
