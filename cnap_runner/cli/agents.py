"""``cnap-runner ps``: the agents and what they do."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Json, settings_of
from cnap_runner.cli.running import run_async
from cnap_runner.errors import BackendError

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.hold import Hold
    from cnap_runner.model.run import RunRecord
    from cnap_runner.runner.runner import Runner
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

WATCH_SECONDS = 1.0
HANDLE_WIDTH = 12


@dataclass(frozen=True, slots=True)
class AgentLine:
    """One agent, as ``ps`` shows it."""

    agent_id: str
    status: str
    model: str
    since: datetime | None
    """When it came into this status."""
    current_run: str | None
    current_task: str | None
    waiting: int
    """Runs that wait for their turn."""
    is_waiting_for_place: bool
    """It starts as soon as one of the ``max_containers`` places is free."""
    asking: int
    """Permissions and questions that wait for somebody's reply."""
    held_until: datetime | None
    """The latest end of its holds: it is not frozen or stopped for doing nothing before."""
    held_by: tuple[str, ...]
    """Whose holds they are."""
    instance: str | None
    """Its live container's id, short; the process backend's own name for an instance."""
    reason: str | None
    """Why it is in this status, in plain words."""


def ps(
    ctx: typer.Context,
    is_json: Json = False,
    is_watching: Annotated[bool, typer.Option("--watch", "-w", help="Look again each second until Ctrl-C.")] = False,
) -> None:
    """List the agents, what they do, and why they failed."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_ps, settings, is_json, is_watching))
    else:
        _show([], is_json=is_json)


async def _ps(settings: Settings, is_json: bool, is_watching: bool, _: Interrupts) -> None:
    import anyio

    async with install.looked_into(settings) as manager:
        await _note_missing_engine(manager)
        _show(await agent_lines(manager), is_json=is_json)
        while is_watching:
            await anyio.sleep(WATCH_SECONDS)
            if sys.stdout.isatty():
                typer.echo("\x1b[2J\x1b[H", nl=False)  # an empty screen
            _show(await agent_lines(manager), is_json=is_json)


async def agent_lines(manager: RunnerManager) -> list[AgentLine]:
    """Look at all agents and what they do now."""
    unfinished: dict[str, list[RunRecord]] = {}
    for run in reversed(await manager.list_runs(is_unfinished=True)):
        unfinished.setdefault(run.agent_id, []).append(run)
    asking = Counter(pending.agent_id for pending in await manager.pending_answers())
    waiting = set(await manager.waiting_for_place())
    holds: dict[str, list[Hold]] = {}
    for hold in await manager.list_holds():
        holds.setdefault(hold.agent_id, []).append(hold)
    return [
        _line(
            runner,
            unfinished.get(runner.agent_id, []),
            asking=asking[runner.agent_id],
            is_waiting_for_place=runner.agent_id in waiting,
            holds=holds.get(runner.agent_id, []),
        )
        for runner in await manager.list_runners()
    ]


def _line(
    runner: Runner, own: list[RunRecord], *, asking: int, is_waiting_for_place: bool, holds: list[Hold]
) -> AgentLine:
    """Describe one agent; ``own`` are its unfinished runs, in the order of its queue."""
    from cnap_runner.model.runner import LIVE_STATUSES

    record = runner.record
    current = next((run for run in own if run.state != "queued"), None)
    return AgentLine(
        agent_id=runner.agent_id,
        status=str(record.status),
        model=runner.model,
        since=record.changed_at,
        current_run=current.run_id if current else None,
        current_task=current.task_id if current else None,
        waiting=sum(run.state == "queued" for run in own),
        is_waiting_for_place=is_waiting_for_place,
        asking=asking,
        held_until=max((hold.until for hold in holds), default=None),
        held_by=tuple(hold.owner for hold in holds),
        instance=_short(record.handle) if record.status in LIVE_STATUSES else None,
        reason=record.reason,
    )


def _short(handle: str | None) -> str | None:
    """Cut a container's id as the engine's own client does; a process instance's handle is its folder, whose name is short."""
    name = (handle or "").rpartition("/")[2]
    return (name if "-" in name else name[:HANDLE_WIDTH]) or None


async def _note_missing_engine(manager: RunnerManager) -> None:
    from cnap_runner.cli.output import note

    try:
        await manager.check_engine()
    except BackendError as error:
        note(f"{error.message} What is shown was last recorded.", style="yellow")


def _show(lines: list[AgentLine], *, is_json: bool) -> None:
    from cnap_runner.cli.output import note, print_table, write_json

    if is_json:
        write_json(lines, indent=2)
    elif lines:
        print_table(_table(lines))
    else:
        note("There are no agents.")


def _table(lines: list[AgentLine]) -> Any:
    from cnap_runner.cli.output import ago, table

    holds = ("HELD UNTIL", "BY") if any(line.held_until for line in lines) else ()
    made = table("AGENT", "STATUS", "SINCE", "MODEL", "RUN", "WAITING", *holds, "INSTANCE", "REASON")
    for line in lines:
        run = f"{line.current_run} ({line.current_task})" if line.current_run else ""
        made.add_row(
            line.agent_id,
            _standing(line),
            ago(line.since),
            line.model,
            run,
            str(line.waiting or ""),
            *([_moment(line.held_until), ", ".join(line.held_by)] if holds else []),
            line.instance or "",
            line.reason or "",
        )
    return made


def _standing(line: AgentLine) -> str:
    more = ", waits for a place" if line.is_waiting_for_place else ", asks" if line.asking else ""
    return f"{line.status}{more}"


def _moment(at: datetime | None) -> str:
    return f"{at.astimezone():%m-%d %H:%M}" if at is not None else ""
