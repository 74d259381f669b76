"""``recover``: agents brought back to work after whatever broke them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agents, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings


def recover(ctx: typer.Context, agents: Agents = None) -> None:
    """Bring agents back to a ready container, from whatever state. Workspaces and sessions stay; one that is well is left alone."""
    if not agents:
        raise InvalidInput("Name at least one agent.", hint="`cnap-runner ps` lists them.")
    run_async(partial(_recover, settings_of(ctx, keep=True), list(dict.fromkeys(agents))))


async def _recover(settings: Settings, agents: list[str], _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        for agent_id in agents:
            runner = await manager.recover_runner(agent_id)
            note(f"agent {agent_id} is {runner.status}")
