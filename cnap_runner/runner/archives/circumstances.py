"""What an export and an import have in common: where they happen, and how they work without being in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from cnap_runner.image.packages import OPENCODE
from cnap_runner.model.instance import InstanceSpec, Limits
from cnap_runner.runner.install import Install
from cnap_runner.runner.workspaces.folders import AgentFolders

POLL_SECONDS = 0.02

_T = TypeVar("_T")


def workspace_path(install: Install, folders: AgentFolders) -> str:
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


def opencode_version() -> str:
    """Tell which OpenCode agents work with here."""
    return OPENCODE["linux-x64"].version


async def in_thread(work: Callable[[Callable[[], bool]], _T]) -> _T:
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
