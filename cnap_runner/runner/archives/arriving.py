"""An agent comes into an install from one file.

It holds the lease of the agent's id, so that nobody else imports or drives an agent of that id meanwhile. Files are unpacked into drafts; only
what is whole gets its name, which fails where somebody made an agent of this id since, and the agent is made known last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio.to_thread

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import ConflictError, InsufficientResources, RunnerNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.ids import check_id
from cnap_runner.model.versions import release_of
from cnap_runner.runner.archives.circumstances import in_thread, opencode_version, workspace_path
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.archives.manifest import Manifest
from cnap_runner.runner.archives.needs import missing_of, needs_of
from cnap_runner.runner.archives.reading import read_manifest
from cnap_runner.runner.archives.unpacking import Target, unpack
from cnap_runner.runner.declarations import spec_data
from cnap_runner.runner.install import Install
from cnap_runner.runner.parts import Parts
from cnap_runner.runner.secrecy.literals import keep_spec
from cnap_runner.runner.workspaces.disk import free_bytes
from cnap_runner.runner.workspaces.folders import PRIVATE, SHARED, AgentFolders, folder_error
from cnap_runner.runner.workspaces.removal import remove
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

CLEAN_UP = timedelta(minutes=2)
"""Longest time to remove what a failed import wrote."""

_log = get_logger(__name__)


async def import_agent(
    parts: Parts,
    path: Path,
    *,
    agent_id: str | None,
    max_bytes: int | None,
    check: Callable[[AgentSpec], None],
    listener: ArchiveListener,
) -> AgentRow:
    """Make an agent from an archive; see `RunnerManager.import_agent`. ``check`` refuses a spec that cannot be used here."""
    install = parts.install
    manifest = await anyio.to_thread.run_sync(read_manifest, path)
    spec = _renamed(manifest.spec, agent_id)
    check(spec)
    async with parts.leased(spec.agent_id, "import"):
        folders = AgentFolders(install.settings.data_dir, spec.agent_id)
        await _refuse_present(install, folders)
        await _place_files(install, folders, path, manifest, max_bytes=max_bytes, listener=listener)
        try:
            row = await _make_known(install, spec, manifest)
        except BaseException:
            async with shielded(CLEAN_UP):
                await install.store.mark_deleted(spec.agent_id, at=install.now())
                await anyio.to_thread.run_sync(folders.delete)
            raise
    await _tell_differences(install, spec, manifest, listener)
    _log.info("agent_imported", agent_id=spec.agent_id)
    return row


async def _refuse_present(install: Install, folders: AgentFolders) -> None:
    agent_id = folders.agent_id
    with contextlib.suppress(RunnerNotFound):
        await install.store.get_agent(agent_id)
        raise ConflictError(f"There is an agent {agent_id} already.", hint="Import it under another id (`--as`).")
    if await anyio.to_thread.run_sync(_has_files, folders):
        raise ConflictError(
            f"A deleted agent {agent_id} left files here.",
            hint=f"Import it under another id (`--as`), or remove them with `cnap-runner rm {agent_id} --workspace`.",
        )


def _has_files(folders: AgentFolders) -> bool:
    own = folders.state.parent
    return own.exists() or (folders.workspace.exists() and any(folders.workspace.iterdir()))


async def _place_files(
    install: Install,
    folders: AgentFolders,
    path: Path,
    manifest: Manifest,
    *,
    max_bytes: int | None,
    listener: ArchiveListener,
) -> None:
    """Unpack into drafts and give them their names at the end. Nothing is left when that is not reached."""
    drafts = _Drafts(folders)
    owner = install.backend.file_owner()
    try:
        trees = await anyio.to_thread.run_sync(drafts.make, manifest.trees)
        room = await anyio.to_thread.run_sync(_room, install, manifest, max_bytes)
        target = Target(trees, owner, room)
        await in_thread(lambda stop: unpack(path, target, listener=listener, should_stop=stop))
        await anyio.to_thread.run_sync(drafts.place)
        await anyio.to_thread.run_sync(folders.make, owner)
        await anyio.to_thread.run_sync(folders.seeded_mark.touch)
    except BaseException:
        async with shielded(CLEAN_UP):
            await anyio.to_thread.run_sync(drafts.remove)
        raise


class _Drafts:
    """Where an archive is unpacked, beside the places its folders get. Whoever has the agent's lease owns them. Methods block."""

    def __init__(self, folders: AgentFolders) -> None:
        self._folders = folders
        self._workspace = folders.draft("import")
        self._own = folders.state.parent.with_name(self._workspace.name)
        self._placed: list[Path] = []

    def make(self, names: tuple[str, ...]) -> dict[str, Path]:
        """Make empty folders for trees, after what an import that was killed may have left."""
        self.remove()
        trees = {name: self._workspace if name == "workspace" else self._own / name for name in names}
        try:
            for folder in dict.fromkeys((self._workspace, self._own, *trees.values())):
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir(mode=SHARED if folder == self._workspace else PRIVATE)
        except OSError as error:
            raise folder_error(self._own.parent, error) from error
        return trees

    def place(self) -> None:
        """Give the drafts their names; empty folders there are replaced."""
        for draft, folder in ((self._own, self._folders.state.parent), (self._workspace, self._folders.workspace)):
            try:
                draft.replace(folder)
            except OSError as error:  # somebody made an agent of this id meanwhile
                raise folder_error(folder, error) from error
            self._placed.append(folder)

    def remove(self) -> None:
        """Remove the drafts, and what got its name already."""
        for folder in (self._workspace, self._own, *self._placed):
            remove(folder)
        self._placed.clear()


def _room(install: Install, manifest: Manifest, max_bytes: int | None) -> int:
    """Tell how many bytes may be unpacked, and refuse what says of itself that it is more."""
    free = free_bytes(install.settings.data_dir) - (install.settings.host_reserve_mb << 20)
    room = max(0, free if max_bytes is None else min(free, max_bytes))
    if manifest.size_bytes > room:
        what = "is left for it" if room == free else "is allowed"
        raise InsufficientResources(
            f"The archive unpacks to {manifest.size_bytes >> 20} MiB, and {room >> 20} MiB {what}.",
            hint="Free some room on the data folder's disk." if room == free else "Allow more with `--max-size`.",
        )
    return room


async def _make_known(install: Install, spec: AgentSpec, manifest: Manifest) -> AgentRow:
    row = await keep_spec(install, spec)
    # An agent of this id that was deleted before may have left tasks; their sessions are not in this archive.
    stale = await install.store.sessions_of(spec.agent_id)
    for task_id in stale:
        await install.store.set_session(spec.agent_id, task_id, None)
    if manifest.workspace_path == workspace_path(install, AgentFolders(install.settings.data_dir, spec.agent_id)):
        for task_id, session_id in manifest.tasks.items():
            await install.store.set_session(spec.agent_id, task_id, session_id)
    return row


async def _tell_differences(install: Install, spec: AgentSpec, manifest: Manifest, listener: ArchiveListener) -> None:
    # What the manifest says it needs is one thing, what the spec will use another: it may name any secret of this host.
    needs = manifest.needs | needs_of(spec, install)
    if needs:
        pairs = (f"{name} ({reference})" for name, reference in sorted(needs.items()))
        # Whoever made the archive chose these words: none of them may look like a line of ours.
        listed = ", ".join(pair if pair.isprintable() else repr(pair) for pair in pairs)
        listener.on_note(f"Agent {spec.agent_id} uses these secrets: {listed}.")
    if spec.image is not None and not await anyio.to_thread.run_sync(install.has_image, spec.image):
        listener.on_note(f"The engine has no image {spec.image}; pull or build it before the first run.")
    missing = await anyio.to_thread.run_sync(missing_of, needs, install)
    for name, reference in missing.items():
        listener.on_warning(f"Secret {name} ({reference}) has no value here; set it before the first run.")
    here = workspace_path(install, AgentFolders(install.settings.data_dir, spec.agent_id))
    if manifest.workspace_path != here and manifest.tasks:
        listener.on_warning(
            "The agent's tasks begin new sessions: OpenCode's are bound to the place of the workspace, which was "
            f"{manifest.workspace_path} and is {here}."
        )
    if release_of(manifest.opencode_version) > release_of(opencode_version()):
        listener.on_warning(
            f"The agent worked with OpenCode {manifest.opencode_version}, and here is {opencode_version()}, which is older: "
            "it may not read the agent's sessions."
        )


def _renamed(spec: AgentSpec, agent_id: str | None) -> AgentSpec:
    """Give the agent another id. What the vault keeps for the old one by name belongs to the new one by its name."""
    if agent_id is None or agent_id == spec.agent_id:
        return spec
    data = spec_data(spec) | {"agent_id": check_id(agent_id)}
    old, new = f"vault:{spec.agent_id}/", f"vault:{agent_id}/"
    if spec.secrets:
        data["secrets"] = {
            name: new + reference.removeprefix(old) if reference.startswith(old) else reference
            for name, reference in spec.secrets.items()
        }
    return AgentSpec.parse(data)
