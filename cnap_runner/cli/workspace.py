"""``cnap-runner workspace``: what agents have on the disk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.asking import confirm
from cnap_runner.cli.commands import Command, Group
from cnap_runner.cli.options import Agent, Agents, Json, Yes, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import InvalidInput, RunnerNotFound

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.workspace import WorkspaceInfo
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Look at agents' files, and remove what is not needed any more."
)


@app.command("ls", cls=Command)
def ls(
    ctx: typer.Context,
    is_json: Json = False,
    is_deleted: Annotated[bool, typer.Option("--deleted", help="Only those of deleted agents.")] = False,
) -> None:
    """List the workspaces of all agents, deleted ones too, with what they take."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_ls, settings, is_json, is_deleted))
    else:
        _show([], is_json=is_json)


async def _ls(settings: Settings, is_json: bool, is_deleted: bool, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        found = await manager.list_workspaces()
    _show([info for info in found if info.is_deleted or not is_deleted], is_json=is_json)


@app.command(cls=Command)
def size(ctx: typer.Context, agent: Agent, is_json: Json = False) -> None:
    """Measure what one agent has on the disk, and say what it may have."""
    run_async(partial(_size, settings_of(ctx, is_quiet=True), agent, is_json))


async def _size(settings: Settings, agent_id: str, is_json: bool, _: Interrupts) -> None:
    from cnap_runner.cli.output import write, write_json
    from cnap_runner.runner.workspaces.quota_words import in_words

    async with install.looked_into(settings) as manager:
        info = await manager.measure_workspace(agent_id)
    if is_json:
        write_json(_plain(info), indent=2)
        return
    for name, taken in (
        ("workspace", info.workspace_bytes),
        ("sessions", info.state_bytes),
        ("home", info.home_bytes),
        ("together", info.total_bytes),
        ("quota", info.quota_bytes),
    ):
        write(f"{name:<10}{in_words(taken):>10}\n")
    if not info.is_complete:
        note("It is more: some of it could not be read.", style="yellow")


@app.command(cls=Command)
def rm(ctx: typer.Context, agents: Agents = None, is_sure: Yes = False) -> None:
    """Remove the workspaces of stopped agents, or all files of deleted ones, for ever.

    A stopped agent keeps its sessions, and its next start seeds its workspace anew.
    """
    wanted = list(dict.fromkeys(agents or []))
    if not wanted:
        raise InvalidInput("Name at least one agent.", hint="`cnap-runner workspace ls` lists them.")
    settings = settings_of(ctx)
    install.require(settings)
    confirm(f"Remove the files of {', '.join(wanted)} for ever?", is_sure=is_sure)
    run_async(partial(_rm, settings, wanted))


async def _rm(settings: Settings, agents: list[str], _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        for agent_id in agents:
            await manager.measure_workspace(agent_id)  # that it is there is known before any is removed
        for agent_id in agents:
            await _rm_one(manager, agent_id)


async def _rm_one(manager: RunnerManager, agent_id: str) -> None:
    try:
        await manager.get_runner(agent_id)
    except RunnerNotFound:
        await manager.delete_runner(agent_id, delete_workspace=True)
        note(f"all files of the deleted agent {agent_id} are removed")
        return
    await manager.remove_workspace(agent_id)
    note(f"the workspace of agent {agent_id} is removed; its sessions stay")


@app.command(cls=Command)
def prune(ctx: typer.Context, is_sure: Yes = False) -> None:
    """Remove for ever the files of agents that were deleted longer ago than CNAP_RUNNER_WORKSPACE_RETENTION."""
    settings = settings_of(ctx)
    if settings.workspace_retention is None:
        raise InvalidInput(
            "Files of deleted agents are kept for ever: there is no retention.",
            hint="Set CNAP_RUNNER_WORKSPACE_RETENTION, for example to 720h; or `cnap-runner workspace rm AGENT`.",
        )
    install.require(settings)
    confirm("Remove the files of agents deleted for longer than the retention, for ever?", is_sure=is_sure)
    run_async(partial(_prune, settings))


async def _prune(settings: Settings, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        removed = await manager.prune_workspaces()
    note(f"removed: {', '.join(removed)}" if removed else "nothing is due")


@app.command(cls=Command)
def fix(ctx: typer.Context, agent: Agent) -> None:
    """Give an agent the files that others put into its workspace, so that it can change them. Needs root."""
    run_async(partial(_fix, settings_of(ctx), agent))


async def _fix(settings: Settings, agent_id: str, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        mended = await manager.fix_workspace(agent_id)
    note(f"{mended.count} files and folders were given to agent {agent_id}")
    if mended.left:
        note(
            f"{mended.left} files with several names were left as they are: they may be used elsewhere", style="yellow"
        )


def _show(found: list[WorkspaceInfo], *, is_json: bool) -> None:
    from cnap_runner.cli.output import print_table, spell, table, write_json
    from cnap_runner.runner.workspaces.quota_words import in_words

    if is_json:
        write_json([_plain(info) for info in found], indent=2)
        return
    if not found:
        note("There are no workspaces.")
        return
    made = table("AGENT", "WORKSPACE", "SESSIONS", "HOME", "OF QUOTA", "AGE", "STATE", "PATH")
    for info in found:
        more = "" if info.is_complete else "+"
        made.add_row(
            info.agent_id,
            in_words(info.workspace_bytes) + more,
            in_words(info.state_bytes),
            in_words(info.home_bytes),
            f"{100 * info.total_bytes // info.quota_bytes} %",
            spell(info.age),
            "deleted" if info.is_deleted else "",
            str(info.path),
        )
    print_table(made)


def _plain(info: WorkspaceInfo) -> dict[str, object]:
    from cnap_runner.cli.output import plain

    return {**plain(info), "total_bytes": info.total_bytes}
