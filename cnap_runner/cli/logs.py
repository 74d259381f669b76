"""``cnap-runner logs``: what an agent's server wrote."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agent, settings_of
from cnap_runner.cli.output import write
from cnap_runner.cli.running import run_async

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings


def logs(
    ctx: typer.Context,
    agent: Agent,
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until the container ends.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last so many lines.")] = None,
) -> None:
    """Print what an agent's server wrote, oldest first. Known secrets are redacted."""
    run_async(partial(_logs, settings_of(ctx), agent, tail, is_following))


async def _logs(settings: Settings, agent_id: str, tail: int | None, is_following: bool, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        runner = await manager.get_runner(agent_id)
        async for line in runner.logs(tail=tail, follow=is_following):
            write(f"{line.text}\n")
