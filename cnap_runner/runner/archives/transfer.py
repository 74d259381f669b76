"""An agent leaves an install as one file, and comes into another.

Both hold the agent's lease, so that it happens between turns. A live instance is frozen while its files are copied: what is on the disk
then is what a crash would leave, which SQLite is made for: its write-ahead log is copied with it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import ConflictError, InstanceExited, InstanceNotFound, InsufficientResources, RunnerNotFound
from cnap_runner.image.packages import OPENCODE
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.ids import check_id
from cnap_runner.model.instance import InstanceSpec, InstanceStatus, Limits
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.archives.manifest import FORMAT, TREES, Manifest
from cnap_runner.runner.archives.needs import missing_of, needs_of, values_of
from cnap_runner.runner.archives.packing import Contents, pack
from cnap_runner.runner.archives.unpacking import Target, read_manifest, unpack
from cnap_runner.runner.declarations import spec_data
from cnap_runner.runner.disk import free_bytes
from cnap_runner.runner.install import Install
from cnap_runner.runner.literals import keep_spec
from cnap_runner.runner.parts import Parts
from cnap_runner.runner.removal import remove
from cnap_runner.runner.workspace import AgentFolders
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

CLEAN_UP = timedelta(minutes=2)
"""Longest time to remove what a failed import wrote."""

POLL_SECONDS = 0.02

_log = get_logger(__name__)
_T = TypeVar("_T")


async def export_agent(parts: Parts, agent_id: str, path: Path, *, with_home: bool, listener: ArchiveListener) -> None:
    """Write an agent into an archive; see `RunnerManager.export_agent`."""
    install = parts.install
    await install.store.get_agent(check_id(agent_id))
    async with parts.leased(agent_id, "export"):
        row = await install.store.get_agent(agent_id)
        tasks = await install.store.sessions_of(agent_id)
        needs = needs_of(row.spec, install)
        secrets = await anyio.to_thread.run_sync(values_of, needs, row.spec, install)
        folders = AgentFolders(install.settings.data_dir, agent_id)
        trees = {name: getattr(folders, name) for name in TREES if name != "home" or with_home}

        def describe(files: int, size: int) -> Manifest:
            return Manifest(
                format=FORMAT,
                agent=spec_data(row.spec),
                tasks=tasks,
                needs=needs,
                trees=tuple(trees),
                files=files,
                size_bytes=size,
                workspace_path=_workspace_path(install, folders),
                opencode_version=_opencode_version(),
                package_version=version("cnap-runner"),
                made_at=install.now(),
            )

        contents = Contents({name: folder for name, folder in trees.items() if folder.is_dir()}, describe, secrets)
        async with _frozen(install, row.runner):
            await _in_thread(lambda stop: pack(contents, path.absolute(), listener=listener, should_stop=stop))
    _log.info("agent_exported", agent_id=agent_id)


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
                await anyio.to_thread.run_sync(folders.delete)
            raise
    await _tell_differences(install, spec, manifest, listener)
    _log.info("agent_imported", agent_id=spec.agent_id)
    return row


@contextlib.asynccontextmanager
async def _frozen(install: Install, record: RunnerRecord) -> AsyncIterator[None]:
    """Freeze the agent's instance, where one runs, and thaw it again whatever happens."""
    gone = (InstanceNotFound, InstanceExited)
    ref = record.ref
    if ref is not None:
        try:
            is_running = (await install.backend.inspect(ref)).status is InstanceStatus.RUNNING
            if is_running:
                await install.backend.pause(ref)
        except gone:
            is_running = False
    try:
        yield
    finally:
        if ref is not None and is_running:
            async with shielded(install.settings.stop_timeout):
                with contextlib.suppress(*gone):
                    await install.backend.resume(ref)


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
        await _in_thread(lambda stop: unpack(path, target, listener=listener, should_stop=stop))
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
        for folder in (self._workspace, self._own):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        trees = {name: self._workspace if name == "workspace" else self._own / name for name in names}
        for name, folder in trees.items():
            if name != "workspace":
                folder.mkdir(mode=0o700)
        return trees

    def place(self) -> None:
        """Give the drafts their names; empty folders there are replaced."""
        for draft, folder in ((self._own, self._folders.state.parent), (self._workspace, self._folders.workspace)):
            draft.replace(folder)
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
    for task_id, session_id in manifest.tasks.items():
        await install.store.set_session(spec.agent_id, task_id, session_id)
    return row


async def _tell_differences(install: Install, spec: AgentSpec, manifest: Manifest, listener: ArchiveListener) -> None:
    needs = {name: spec.secrets.get(name, reference) for name, reference in manifest.needs.items()}
    missing = await anyio.to_thread.run_sync(missing_of, needs, install)
    for name, reference in missing.items():
        listener.on_warning(f"Secret {name} ({reference}) has no value here; set it before the first run.")
    here = _workspace_path(install, AgentFolders(install.settings.data_dir, spec.agent_id))
    if manifest.workspace_path != here:
        listener.on_warning(
            f"The agent's sessions speak of a workspace at {manifest.workspace_path}; here it is {here}."
        )
    if _release(manifest.opencode_version) > _release(_opencode_version()):
        listener.on_warning(
            f"The agent worked with OpenCode {manifest.opencode_version}, and here is {_opencode_version()}, which is older: "
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


def _workspace_path(install: Install, folders: AgentFolders) -> str:
    """Tell where an agent's sessions find its workspace on this backend."""
    anything = InstanceSpec(
        install_id=install.install_id,
        agent_id=folders.agent_id,
        instance_id="none",
        generation=0,
        spec_hash="",
        image="",
        limits=Limits(memory_bytes=0, cpus=0, pids=0),
        volumes=folders.volumes(),
    )
    return install.backend.layout(anything).workspace


def _opencode_version() -> str:
    return OPENCODE["linux-x64"].version


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


async def _in_thread(work: Callable[[Callable[[], bool]], _T]) -> _T:
    """Run blocking work in a thread. Cancelled, it is told to stop and waited for: nobody cleans up while it still writes."""
    stop, started, ended = threading.Event(), threading.Event(), threading.Event()

    def run() -> _T:
        started.set()
        try:
            return work(stop.is_set)
        finally:
            ended.set()

    try:
        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
    finally:
        stop.set()  # one that begins only now ends at its first look
        with anyio.CancelScope(shield=True):
            while started.is_set() and not ended.is_set():
                await anyio.sleep(POLL_SECONDS)
