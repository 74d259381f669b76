"""``cnap-runner export`` and ``import``: an agent as one file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agent, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import ConflictError, InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

MIB = 1 << 20

CLOSING_WORDS_SECONDS = 5
"""Longest time to look up how an interrupted import ended."""


def export(
    ctx: typer.Context,
    agent: Agent,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The archive. By default AGENT.tar.gz, here.")
    ] = None,
    with_home: Annotated[
        bool, typer.Option("--with-home", help="Its home too: caches, and tools it installed.")
    ] = False,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
) -> None:
    """Write an agent into one file: spec, workspace, sessions. Secrets stay behind; `import` names those it needs."""
    target = output or Path(f"{agent}.tar.gz")
    if target.exists() and not is_forced:
        raise ConflictError(
            f"{target} is there already.", hint="Name another file with -o, or give --force to replace it."
        )
    run_async(partial(_export, settings_of(ctx, is_quiet=True), agent, target, with_home))
    note(f"agent {agent} is exported to {target} ({target.stat().st_size / 1e6:.1f} MB)")


async def _export(settings: Settings, agent_id: str, target: Path, with_home: bool, _: Interrupts) -> None:
    import anyio

    from cnap_runner.cli.transfers import ShownTransfer

    before = _mark(target)
    try:
        async with install.opened(settings) as manager:
            await manager.get_runner(agent_id)
            with ShownTransfer(f"exporting agent {agent_id}") as listener:
                await manager.export_agent(agent_id, target, with_home=with_home, listener=listener)
    except anyio.get_cancelled_exc_class():
        what = "nothing was exported" if _mark(target) == before else f"{target} is written all the same"
        note(f"interrupted; {what}")
        raise


def _mark(path: Path) -> int | None:
    """Tell one file of a name from a later one."""
    return path.stat().st_ino if path.exists() else None


def import_(
    ctx: typer.Context,
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    agent_id: Annotated[str | None, typer.Option("--as", metavar="AGENT", help="Another id for it.")] = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            "--max-size", min=1, metavar="MIB", help="Most it may unpack to; by default what the disk has left."
        ),
    ] = None,
) -> None:
    """Make an agent from an archive. It goes on with its sessions; nothing is started.

    Import only what you trust as you would a program: its spec says which secrets of yours it uses, and `agent show` shows it.
    """
    if not archive.exists():
        raise InvalidInput(f"There is no file {archive}.")  # before an install is made for it
    run_async(partial(_import, settings_of(ctx, is_quiet=True), archive, agent_id, max_size))


async def _import(settings: Settings, archive: Path, agent_id: str | None, max_size: int | None, _: Interrupts) -> None:
    import anyio

    from cnap_runner.cli.transfers import ShownTransfer

    new: set[str] = set()
    try:
        async with install.opened(settings, must_exist=False) as manager, _new_agents(manager, new):
            with ShownTransfer(f"importing {archive.name}") as listener:
                max_bytes = None if max_size is None else max_size * MIB
                runner = await manager.import_agent(archive, agent_id=agent_id, max_bytes=max_bytes, listener=listener)
    except anyio.get_cancelled_exc_class():
        what = f"there is a new agent all the same: {', '.join(sorted(new))}" if new else "nothing was imported"
        note(f"interrupted; {what}")
        raise
    note(f"agent {runner.agent_id} is imported; its files are in {settings.data_dir / 'workspace' / runner.agent_id}")


@asynccontextmanager
async def _new_agents(manager: RunnerManager, new: set[str]) -> AsyncIterator[None]:
    """Add to ``new`` the agents that came to be inside, also where it was cut short."""
    import anyio

    before = {runner.agent_id for runner in await manager.list_runners()}
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSING_WORDS_SECONDS):
            new |= {runner.agent_id for runner in await manager.list_runners()} - before
