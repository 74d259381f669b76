"""A newer OpenCode for an agent that has sessions: they are saved before its first start, and put back where that fails.

OpenCode changes its database when a newer version first opens it, and an older one may not read the result.
"""

from __future__ import annotations

import re
from functools import partial

import anyio.to_thread

from cnap_runner.errors import UnsupportedServerVersion
from cnap_runner.model.instance import InstanceSpec
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.recovery.saved_state import drop, has_saved, restore, save, saved_version
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


class Upgrades:
    """Sees to it that no start of another OpenCode costs an agent its sessions. The caller holds the agent's lease."""

    def __init__(self, install: Install) -> None:
        self._install = install

    async def before_start(self, record: RunnerRecord, wanted: InstanceSpec) -> None:
        """Save the sessions where a newer OpenCode, or one of unknown version, is about to open them. Nothing of the agent runs yet.

        What an earlier start that never ended left is undone first. Raises `UnsupportedServerVersion` for an older OpenCode.
        """
        folders, served = self._folders(record.agent_id), record.opencode_version
        coming = await self._version_in(wanted.image)
        _refuse_older(served, coming, where=f"Image {wanted.image}")
        await anyio.to_thread.run_sync(partial(_secure, folders, served, is_other=coming is None or coming != served))

    async def after_start(self, record: RunnerRecord, version: str | None) -> None:
        """Let go of what was saved: this version, which the server says it has, can read the sessions. Raises as `before_start`."""
        served = record.opencode_version
        _refuse_older(served, version, where="Its image")
        await anyio.to_thread.run_sync(drop, self._folders(record.agent_id))
        if served is not None and version is not None and served != version:
            reason = f"its OpenCode is {version} now; it was {served}, and its sessions go on"
            await note(self._install, record.agent_id, DecisionKind.UPGRADED, reason, {"from": served, "to": version})

    async def after_failure(self, agent_id: str) -> None:
        """Put back what was saved before a start that failed. Nothing of the agent runs any more. Nothing was saved: nothing happens."""
        folders = self._folders(agent_id)
        if await anyio.to_thread.run_sync(has_saved, folders):
            await anyio.to_thread.run_sync(restore, folders)
            await anyio.to_thread.run_sync(drop, folders)
            _log.info("sessions_restored", agent_id=agent_id)

    async def _version_in(self, image: str) -> str | None:
        """Tell which OpenCode an instance of an image will run; None where nobody says so before it runs."""
        install = self._install
        version = await install.backend.opencode_version(image)
        if version is not None or image == install.settings.image:
            return version
        if await anyio.to_thread.run_sync(install.kit_for, image) is None:
            return None  # it has one of its own
        return await install.backend.opencode_version(install.settings.image)

    def _folders(self, agent_id: str) -> AgentFolders:
        return AgentFolders(self._install.settings.data_dir, agent_id)


def _secure(folders: AgentFolders, served: str | None, *, is_other: bool) -> None:
    """Put back what an earlier start left, or save what is there for one of another OpenCode. Runs in a thread."""
    if has_saved(folders) and saved_version(folders) == served:
        restore(folders)
        return
    drop(folders)  # a copy that a start which succeeded left is older than the sessions
    if is_other:
        save(folders, version=served)


def _refuse_older(served: str | None, coming: str | None, *, where: str) -> None:
    if served is not None and coming is not None and _number(coming) < _number(served):
        raise UnsupportedServerVersion(
            f"{where} has OpenCode {coming}, but version {served} wrote this agent's sessions, and an older one may not read them.",
            hint=f"Use an image with OpenCode {served} or newer.",
        )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version.partition("-")[0]))
