"""``cnap-runner runs``: the ledger."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Json, complete_agent, settings_of
from cnap_runner.cli.output import ago, brief, note, plain, print_table, spell, table, write_json
from cnap_runner.cli.running import run_async

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.run import RunRecord
    from cnap_runner.settings import Settings

ERROR_WIDTH = 60


def runs(
    ctx: typer.Context,
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help="Only this agent's.", autocompletion=complete_agent)
    ] = None,
    is_json: Json = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
) -> None:
    """List runs, newest first: who did what, and how it ended."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_runs, settings, agent, is_json, limit))
    else:
        _show([], is_json=is_json)


async def _runs(settings: Settings, agent_id: str | None, is_json: bool, limit: int, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        found = await manager.list_runs(agent_id)
        if agent_id is not None and not found:
            await manager.get_runner(
                agent_id
            )  # one that was never there has no empty ledger; a deleted one's runs are listed
        _show(found[:limit], is_json=is_json)


def _show(found: list[RunRecord], *, is_json: bool) -> None:
    if is_json:
        write_json([_shown(run) for run in found], indent=2)
    elif found:
        print_table(_table(found))
    else:
        note("There are no runs.")


def _shown(run: RunRecord) -> dict[str, Any]:
    """Leave out what only the machinery needs."""
    hidden = {"fingerprint", "owner", "after_message_id", "place"}
    return {name: value for name, value in plain(run).items() if name not in hidden}


def _table(found: list[RunRecord]) -> Any:
    made = table("RUN", "AGENT", "TASK", "STATE", "AGO", "TOOK", "TOKENS", "MODEL", "ERROR")
    for run in found:
        result = run.result
        made.add_row(
            run.run_id,
            run.agent_id,
            run.task_id,
            str(result.outcome if result else run.state),
            ago(run.created_at),
            spell(result.duration) if result else "",
            f"{result.usage.input_tokens}/{result.usage.output_tokens}" if result else "",
            (result.model if result else run.model) or "",
            brief(result.error.message, ERROR_WIDTH) if result and result.error else "",
        )
    return made
