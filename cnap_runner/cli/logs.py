"""``cnap-runner logs``: what an agent's servers wrote."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agent, settings_of
from cnap_runner.cli.output import note, write, write_json
from cnap_runner.cli.running import run_async

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.instance import LogLine
    from cnap_runner.settings import Settings


def logs(  # noqa: PLR0913 - each is an option
    ctx: typer.Context,
    agent: Agent,
    *,
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until the container ends.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last so many lines.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only lines since a time (2026-01-31T12:00) or so long ago (10m)."
        ),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option("--grep", metavar="PATTERN", help="Only lines with a match of this regular expression."),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only lines of the time of this run.")] = None,
    has_times: Annotated[bool, typer.Option("--timestamps", "-t", help="Begin each line with its time.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print what an agent's servers wrote, oldest first, containers that are gone included. Known secrets are redacted."""
    wanted = {"tail": tail, "follow": is_following, "since": _moment(since), "grep": grep, "run": run}
    show = write_json if is_json else partial(_show, has_times=has_times)
    run_async(partial(_logs, settings_of(ctx), agent, wanted, show))


async def _logs(settings: Settings, agent_id: str, wanted: dict[str, Any], show: Any, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        runner = await manager.get_runner(agent_id)
        async for line in runner.logs(**wanted):
            show(line)


def _show(line: LogLine, *, has_times: bool) -> None:
    """Print a line; what is no output, such as that lines are missing, goes to standard error."""
    if line.stream == "cnap-runner":
        note(f"({line.text})", style="yellow")
        return
    at = f"{line.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z " if has_times and line.at is not None else ""
    write(f"{at}{line.text}\n")


def _moment(text: str | None) -> datetime | timedelta | None:
    """Read a point in time, by the clock of this machine's zone where it names none, or a duration."""
    from cnap_runner.errors import InvalidInput
    from cnap_runner.model.durations import parse_duration

    if text is None:
        return None
    with suppress(ValueError):
        return datetime.fromisoformat(text).astimezone()
    with suppress(InvalidInput):
        ago: timedelta = parse_duration(text)
        return ago
    raise InvalidInput(f"--since {text}: that is no time.", hint="Write 10m, 2h, or 2026-01-31T12:00.")
