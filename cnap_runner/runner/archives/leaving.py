"""An agent leaves an install as one file.

It holds the agent's lease, so that it happens between turns. A live instance is frozen while its files are copied: what is on the disk
then is what a crash would leave, which SQLite is made for: its write-ahead log is copied with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import anyio.to_thread

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import InstanceExited, InstanceNotFound
from cnap_runner.model.ids import check_id
from cnap_runner.model.instance import InstanceRef, InstanceStatus
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.archives.circumstances import in_thread, opencode_version, workspace_path
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.archives.manifest import FORMAT, TREES, Manifest
from cnap_runner.runner.archives.needs import needs_of, values_of
from cnap_runner.runner.archives.packing import Contents, pack
from cnap_runner.runner.declarations import spec_data
from cnap_runner.runner.install import Install
from cnap_runner.runner.parts import Parts
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


async def export_agent(parts: Parts, agent_id: str, path: Path, *, with_home: bool, listener: ArchiveListener) -> None:
    """Write an agent into an archive; see `RunnerManager.export_agent`."""
    install = parts.install
    await install.store.get_agent(check_id(agent_id))
    async with parts.leased(agent_id, "export"):
        row = await install.store.get_agent(agent_id)
        tasks = await install.store.sessions_of(agent_id)
        needs = needs_of(row.spec, install)
        secrets = await anyio.to_thread.run_sync(values_of, needs, row.spec, install)
        for name in sorted(needs.keys() - secrets.keys()):
            listener.on_warning(f"Secret {name} could not be read here, so it was not looked for.")
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
                workspace_path=workspace_path(install, folders),
                opencode_version=opencode_version(),
                package_version=version("cnap-runner"),
                made_at=install.now(),
            )

        contents = Contents({name: folder for name, folder in trees.items() if folder.is_dir()}, describe, secrets)
        async with _frozen(install, row.runner):
            await in_thread(lambda stop: pack(contents, path.absolute(), listener=listener, should_stop=stop))
    _log.info("agent_exported", agent_id=agent_id)


@contextlib.asynccontextmanager
async def _frozen(install: Install, record: RunnerRecord) -> AsyncIterator[None]:
    """Freeze the agent's instance, where one runs, and thaw it again whatever happens."""
    gone = (InstanceNotFound, InstanceExited)
    ref = record.ref
    if ref is None or not await _is_running(install, ref):
        yield
        return
    try:
        with contextlib.suppress(*gone):
            await install.backend.pause(ref)
        yield
    finally:
        # Also where the freeze is said to have failed, or was not waited for: it may have happened all the same.
        async with shielded(install.settings.stop_timeout):
            with contextlib.suppress(*gone):
                await install.backend.resume(ref)


async def _is_running(install: Install, ref: InstanceRef) -> bool:
    with contextlib.suppress(InstanceNotFound):
        return (await install.backend.inspect(ref)).status is InstanceStatus.RUNNING
    return False
