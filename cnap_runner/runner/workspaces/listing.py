"""The files of all agents of an install: listed, removed, given to their agents, and kept no longer than the retention says."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from cnap_runner.errors import ConflictError, InvalidInput, RunnerError, RunnerNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.decisions.disk import MIB, due_for_removal
from cnap_runner.model.ids import check_id
from cnap_runner.model.runner import LIVE_STATUSES
from cnap_runner.model.workspace import Mended, WorkspaceInfo
from cnap_runner.runner.install import Install
from cnap_runner.runner.secrecy.literals import drop_literals
from cnap_runner.runner.workspaces.access import Owner, give_all
from cnap_runner.runner.workspaces.disk import measure
from cnap_runner.runner.workspaces.folders import ASIDE, AgentFolders, folder_error
from cnap_runner.runner.workspaces.removal import remove
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

if TYPE_CHECKING:
    from cnap_runner.runner.parts import Parts

_log = get_logger(__name__)


async def list_workspaces(install: Install, agent_ids: Iterable[str] | None = None) -> list[WorkspaceInfo]:
    """Measure the files of these agents, or of all that have any, deleted ones too; by id. Raises `RunnerNotFound` for one without."""
    rows = {row.agent_id: row for row in (*await install.store.list_agents(), *await install.store.list_deleted())}
    there = await anyio.to_thread.run_sync(_ids_with_files, install.settings.data_dir)
    wanted = sorted(there | rows.keys()) if agent_ids is None else [check_id(agent_id) for agent_id in agent_ids]
    found = []
    for agent_id in wanted:
        if agent_id not in there:
            if agent_ids is not None:
                raise RunnerNotFound(f"There are no files of an agent {agent_id!r}.")
            continue
        found.append(await _look(install, agent_id, rows.get(agent_id)))
    return found


async def remove_workspace(parts: Parts, agent_id: str) -> None:
    """Remove the workspace of a known agent that is stopped; its sessions stay, and its next start seeds the workspace anew.

    Raises `ConflictError` while its instance lives, `RunnerNotFound`.
    """
    install = parts.install
    _require_stopped(await install.store.get_agent(check_id(agent_id)))
    async with parts.leased(agent_id, "workspace"):
        _require_stopped(await install.store.get_agent(agent_id))
        await anyio.to_thread.run_sync(AgentFolders(install.settings.data_dir, agent_id).delete_workspace)
    _log.info("workspace_removed", agent_id=agent_id)


async def fix_workspace(parts: Parts, agent_id: str) -> Mended:
    """Give an agent all that others put into its workspace. Idempotent, and safe while the agent works.

    Where the agent works as this very user, files of others can be given by root alone: raises `InvalidInput` then.
    """
    install = parts.install
    await install.store.get_agent(check_id(agent_id))
    await install.backend.check()  # whether the engine is rootless decides who the agent is
    owner = install.backend.file_owner()
    if owner is None:
        raise InvalidInput(
            "The agent works as this user, who cannot give files of others away.",
            hint="As root: chown -Rh USER the workspace.",
        )
    return await anyio.to_thread.run_sync(_give, AgentFolders(install.settings.data_dir, agent_id), owner)


async def prune(parts: Parts) -> list[str]:
    """Remove for ever the files of agents that were deleted longer than ``workspace_retention`` ago; return their ids.

    Files that cannot be removed are told in the log and left for the next time. Without a retention nothing happens.
    """
    install = parts.install
    rows = await install.store.list_deleted()
    deleted = [(row.agent_id, row.deleted_at) for row in rows if row.deleted_at is not None]
    due = due_for_removal(deleted, retention=install.settings.workspace_retention, now=install.now())
    removed = []
    for agent_id in due:
        try:
            if await _remove_deleted(parts, agent_id):
                removed.append(agent_id)
        except RunnerError as error:
            _log.warning("workspace_not_removed", agent_id=agent_id, error=str(error))
    if install.settings.workspace_retention is not None:
        await anyio.to_thread.run_sync(_remove_left_aside, install.settings.data_dir)
    return removed


def _remove_left_aside(data_dir: Path) -> None:
    """Remove what an earlier time set aside and could not remove, or was killed over. Blocks."""
    for path in (*(data_dir / "workspace").glob(ASIDE), *(data_dir / "agents").glob(ASIDE)):
        try:
            remove(path)
        except RunnerError as error:
            _log.warning("workspace_not_removed", path=str(path), error=str(error))


async def _remove_deleted(parts: Parts, agent_id: str) -> bool:
    install = parts.install
    async with parts.leased(agent_id, "retention"):
        # It may have come back, or have been removed by another manager. Whoever makes it known again takes no lease: before this
        # transaction the agent comes back to all of its files, after it to none.
        if not await install.store.erase_deleted(agent_id):
            return False
        folders = AgentFolders(install.settings.data_dir, agent_id)
        await anyio.to_thread.run_sync(folders.set_aside)
        await anyio.to_thread.run_sync(folders.delete_aside)
        await drop_literals(install, agent_id)
    _log.info("workspace_removed", agent_id=agent_id, reason="its retention is over")
    return True


async def _look(install: Install, agent_id: str, row: AgentRow | None) -> WorkspaceInfo:
    settings = install.settings
    folders = AgentFolders(settings.data_dir, agent_id)
    use = await measure(folders)
    since = row.created_at if row else await anyio.to_thread.run_sync(_changed, folders)
    spec: AgentSpec | None = row.spec if row else None
    return WorkspaceInfo(
        agent_id=agent_id,
        path=folders.workspace,
        workspace_bytes=use.workspace,
        state_bytes=use.state,
        home_bytes=use.home,
        is_complete=use.is_complete,
        age=max(install.now() - since, timedelta(0)),
        quota_bytes=((spec.resources.disk_mb if spec else None) or settings.disk_mb) * MIB,
        is_deleted=row is None or row.deleted_at is not None,
        deleted_at=row.deleted_at if row else None,
    )


def _ids_with_files(data_dir: Path) -> set[str]:
    found = set()
    for folder in (data_dir / "workspace", data_dir / "agents"):
        if folder.is_dir():
            found |= {path.name for path in folder.iterdir() if path.is_dir() and _is_id(path.name)}
    return found


def _is_id(name: str) -> bool:
    try:
        check_id(name)
    except InvalidInput:
        return False
    return True


def _changed(folders: AgentFolders) -> datetime:
    for path in (folders.workspace, folders.state):
        if path.is_dir():
            return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    return datetime.now(UTC)


def _require_stopped(row: AgentRow) -> None:
    if row.runner.status in LIVE_STATUSES:
        agent_id = row.agent_id
        raise ConflictError(
            f"Agent {agent_id} is {row.runner.status}, and its workspace in use.",
            hint=f"Stop it first: `cnap-runner stop {agent_id}`.",
        )


def _give(folders: AgentFolders, owner: Owner) -> Mended:
    try:
        return give_all(folders.workspace, owner, folders.sharers(owner))
    except OSError as error:
        raise folder_error(folders.workspace, error) from error
