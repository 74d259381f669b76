"""``start``, ``stop``, ``rm`` and ``abort``: what becomes of agents and their containers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.asking import confirm
from cnap_runner.cli.options import Agent, Agents, Yes, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import InvalidInput, NotFoundError

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager


def start(ctx: typer.Context, agents: Agents = None) -> None:
    """Start agents' containers and leave them running, so that the next run begins at once."""
    wanted = _require_some(agents)
    run_async(partial(_start, settings_of(ctx, keep=True), wanted))


async def _start(settings: Settings, agents: list[str], _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        for agent_id in agents:
            runner = await manager.start_runner(agent_id)
            note(f"agent {agent_id} is {runner.status}")


def stop(
    ctx: typer.Context,
    agents: Agents = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every agent of this install.")] = False,
) -> None:
    """End agents' runs and stop their containers. Workspace and sessions stay; the next run starts them anew."""
    if is_all and agents:
        raise InvalidInput("Name the agents to stop, or give --all: one of the two, not both.")
    if not is_all and not agents:
        raise InvalidInput("Name the agents to stop, or give --all.")
    run_async(partial(_stop, settings_of(ctx), agents))


async def _stop(settings: Settings, agents: list[str] | None, _: Interrupts) -> None:
    import anyio

    async with install.opened(settings) as manager:
        known = [runner.agent_id for runner in await manager.list_runners()]
        wanted = agents or known
        for agent_id in wanted:
            await manager.get_runner(agent_id)
        async with anyio.create_task_group() as tasks:
            for agent_id in wanted:
                tasks.start_soon(_stop_one, manager, agent_id)


async def _stop_one(manager: RunnerManager, agent_id: str) -> None:
    await manager.stop_runner(agent_id)
    note(f"agent {agent_id} is stopped")


def rm(
    ctx: typer.Context,
    agents: Agents = None,
    with_workspace: Annotated[
        bool, typer.Option("--workspace", help="Remove its files, sessions and history too, for ever.")
    ] = False,
    is_sure: Yes = False,
) -> None:
    """Forget agents and remove their containers. Their files and sessions stay for a later agent of that id."""
    wanted = _require_some(agents)
    if with_workspace:
        confirm(f"Remove all files and sessions of {', '.join(wanted)} for ever?", is_sure=is_sure)
    run_async(partial(_rm, settings_of(ctx), wanted, with_workspace))


async def _rm(settings: Settings, agents: list[str], with_workspace: bool, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        for agent_id in agents:
            if not (with_workspace and _has_files(settings, agent_id)):
                await manager.get_runner(agent_id)
        for agent_id in agents:
            await manager.delete_runner(agent_id, delete_workspace=with_workspace)
            kept = "" if with_workspace else f"; its files stay in {settings.data_dir / 'workspace' / agent_id}"
            note(f"agent {agent_id} is removed{kept}")


def abort(
    ctx: typer.Context,
    agent: Agent,
    task: Annotated[str, typer.Option("--task", help="The task whose unfinished runs end.")] = "main",
) -> None:
    """End the unfinished runs of an agent's task, whoever started them. The agent stays usable."""
    run_async(partial(_abort, settings_of(ctx), agent, task))


async def _abort(settings: Settings, agent_id: str, task_id: str, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        runner = await manager.get_runner(agent_id)
        runs = [run for run in await manager.list_runs(agent_id) if run.task_id == task_id]
        if not runs and task_id != "main":
            raise NotFoundError(
                f"Agent {agent_id} has no run of a task {task_id[:80]!r}.",
                hint=f"`cnap-runner runs {agent_id}` lists its runs.",
            )
        count = sum(run.state != "ended" for run in runs)
        await runner.abort(task_id)
        note(f"{count} {'run' if count == 1 else 'runs'} ended" if count else "nothing was under way")


def _has_files(settings: Settings, agent_id: str) -> bool:
    """Whether a deleted agent of this id left files. An id that is none is refused by the manager."""
    from cnap_runner.model.ids import check_id

    return (settings.data_dir / "agents" / check_id(agent_id)).exists()


def _require_some(agents: list[str] | None) -> list[str]:
    if not agents:
        raise InvalidInput("Name at least one agent.", hint="`cnap-runner ps` lists them.")
    # One named twice is meant once.
    return list(dict.fromkeys(agents))
