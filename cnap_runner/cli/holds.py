"""``pause``, ``hold``, ``release`` and ``stats``: what people have to say about agents' lives."""

from __future__ import annotations

import getpass
import shlex
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agent, Agents, Json, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings

Owner = Annotated[str | None, typer.Option("--owner", help="Whose hold it is; by default you.")]

LONGEST = timedelta(days=30)
"""What ``--for`` may say; a longer hold has to name its end."""


def pause(ctx: typer.Context, agents: Agents = None) -> None:
    """Freeze agents' containers. Their memory stays; their next runs thaw them within milliseconds."""
    if not agents:
        raise InvalidInput("Name the agents to freeze.")
    run_async(partial(_pause, settings_of(ctx), agents))


async def _pause(settings: Settings, agents: list[str], _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        for agent_id in agents:
            await manager.pause_runner(agent_id)
            note(f"agent {agent_id} is paused")


def hold(
    ctx: typer.Context,
    agent: Agent,
    lasts: Annotated[str | None, typer.Option("--for", help="How long: 90 (seconds), 5m, 2h.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Until when: 2026-12-24T18:00 (local time).")] = None,
    owner: Owner = None,
) -> None:
    """Keep an agent's container: it is neither frozen nor stopped for doing nothing, and yields its place to nobody."""
    if lasts is not None and until is not None:
        raise InvalidInput("Give --for or --until: one of the two, not both.")
    if lasts is None and until is None:
        raise InvalidInput("Say for how long (--for 2h) or until when (--until 2026-12-24T18:00).")
    end = _end(lasts, until)
    run_async(partial(_hold, settings_of(ctx), agent, owner or getpass.getuser(), end))


async def _hold(settings: Settings, agent_id: str, owner: str, until: datetime, _: Interrupts) -> None:
    from cnap_runner.model.runner import LIVE_STATUSES

    async with install.opened(settings) as manager:
        made = await manager.hold(agent_id, owner, until)
        status = (await manager.get_runner(agent_id)).status
    note(f"agent {agent_id} is held by {made.owner} until {_spell(made.until)}")
    if status not in LIVE_STATUSES:
        note(f"it is {status}, and a hold starts nothing: `cnap-runner start {agent_id}` starts it")


def release(ctx: typer.Context, agent: Agent, owner: Owner = None) -> None:
    """End a hold. Without another one the agent's idle time counts again."""
    run_async(partial(_release, settings_of(ctx), agent, owner or getpass.getuser()))


async def _release(settings: Settings, agent_id: str, owner: str, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        was_held = await manager.release(agent_id, owner)
        others = [hold for hold in await manager.list_holds() if hold.agent_id == agent_id]
    if was_held:
        note(f"agent {agent_id} is released by {owner}")
    elif not others:
        note(f"nobody holds agent {agent_id}")
    else:
        note(f"{owner} did not hold agent {agent_id}")
    for hold in others:
        note(
            f"it is held by {hold.owner} until {_spell(hold.until)}; "
            f"`cnap-runner release {agent_id} --owner {shlex.quote(hold.owner)}` ends that"
        )


def stats(ctx: typer.Context, is_json: Json = False) -> None:
    """Count agents, and what ended their containers and turns, over the install's life."""
    run_async(partial(_stats, settings_of(ctx, is_quiet=True), is_json))


async def _stats(settings: Settings, is_json: bool, _: Interrupts) -> None:
    from cnap_runner.cli.output import plain, print_table, table, write_json

    async with install.looked_into(settings) as manager:
        agents, work = await manager.stats(), await manager.metrics()
    if is_json:
        write_json({**plain(agents), **plain(work)}, indent=2)
        return
    made = table("", "")
    for name, value in {**plain(agents), **plain(work)}.items():
        made.add_row(*_figure(name, value))
    print_table(made)


def _figure(name: str, value: float) -> tuple[str, str]:
    """Put a figure into people's words: FR-010's tasks are runs here, and its milliseconds seconds."""
    words = name.replace("tasks_", "runs_").replace("avg_execution_time", "avg_run_time").replace("_", " ")
    if words.endswith(" ms"):
        return words.removesuffix(" ms"), f"{value / 1000:.1f} s"
    return words, f"{value:g}"


def _end(lasts: str | None, until: str | None) -> datetime:
    from datetime import UTC

    from pydantic import TypeAdapter, ValidationError

    from cnap_runner.model.durations import Duration

    try:
        if until is not None:
            return datetime.fromisoformat(until).astimezone()
        wanted: timedelta = TypeAdapter(Duration).validate_python(lasts)
        end = datetime.now(UTC) + wanted
    except (ValidationError, ValueError, OverflowError):
        raise InvalidInput(
            f"{until or lasts!r} is no {'moment' if until else 'duration'}.", hint="For example --for 2h."
        ) from None
    if wanted > LONGEST:
        raise InvalidInput(
            f"{lasts} is longer than {LONGEST.days} days, which is mostly a mistake.",
            hint=f"If it is meant: --until {end.astimezone():%Y-%m-%dT%H:%M}.",
        )
    return end


def _spell(until: datetime) -> str:
    return f"{until.astimezone():%Y-%m-%d %H:%M:%S}"
