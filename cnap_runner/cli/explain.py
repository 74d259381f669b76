"""``cnap-runner explain``: why an agent is as it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agent, Json, settings_of
from cnap_runner.cli.output import ago, print_line, write_json
from cnap_runner.cli.running import run_async
from cnap_runner.errors import RunnerNotFound

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.diary import Entry
    from cnap_runner.model.journal import Decision
    from cnap_runner.model.runner import RunnerRecord
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager


def explain(
    ctx: typer.Context,
    agent: Agent,
    is_json: Json = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="At most so many, the newest.")] = 100,
) -> None:
    """Tell an agent's story: what was decided about it, when and why. A deleted one's too."""
    run_async(partial(_explain, settings_of(ctx, is_quiet=True), agent, is_json, limit))


async def _explain(settings: Settings, agent_id: str, is_json: bool, limit: int, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        decisions = await manager.explain(agent_id, limit=limit)
        if is_json:
            write_json(decisions, indent=2)
        else:
            _tell(decisions, await _record(manager, agent_id), agent_id)


async def _record(manager: RunnerManager, agent_id: str) -> RunnerRecord | None:
    try:
        return (await manager.get_runner(agent_id)).record
    except RunnerNotFound:
        return None


def _tell(decisions: list[Decision], record: RunnerRecord | None, agent_id: str) -> None:
    from cnap_runner.model.diary import diary

    for day in diary(decisions, zone=None):
        print_line(f"{day.date:%A} {day.date.day} {day.date:%B %Y}", style="bold")
        for entry in day.entries:
            print_line(_line(entry))
        print_line("")
    print_line(_now(record, agent_id))


def _line(entry: Entry) -> str:
    facts = f" ({', '.join(entry.facts)})" if entry.facts else ""
    again = f" {entry.times} times, last at {entry.last_at:%H:%M:%S}." if entry.last_at is not None else ""
    return f"  {entry.at:%H:%M:%S}  {entry.title}: {entry.reason.rstrip('.')}{facts}.{again}"


def _now(record: RunnerRecord | None, agent_id: str) -> str:
    if record is None:
        return f"Now {agent_id} is deleted."
    since = f" for {ago(record.changed_at)}" if record.changed_at is not None else ""
    why = f": {record.reason}" if record.reason else ""
    return f"Now {agent_id} is {record.status}{since}{why}."
