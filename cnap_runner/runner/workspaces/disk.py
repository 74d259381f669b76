"""How much an agent's folders take on the disk."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.to_thread

from cnap_runner.runner.workspaces.confined import Step, Walk, opened_folder
from cnap_runner.runner.workspaces.folders import AgentFolders

BLOCK = 512
"""Bytes of one unit of ``st_blocks``, on every file system (stat(2))."""

LEAST_BYTES = 4096
"""What each file, link and folder counts at least. A disk has a fixed number of places for them, and empty ones take no block: an agent that makes
nothing else would otherwise use up the disk of all."""

MOST_ENTRIES = 5_000_000
"""What is beyond is not counted: a measurement must end."""

BUSY_EVERY = 1024
"""Entries after which other threads are let in: a walk holds the interpreter's lock nearly all the time."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What an agent's files take, in allocated bytes, and at least `LEAST_BYTES` each; a file with several names counts once."""

    workspace: int = 0
    state: int = 0
    home: int = 0
    is_complete: bool = True
    """False where something could not be read, or there was too much of it: it is more, then."""
    took: timedelta = timedelta(0)

    @property
    def total(self) -> int:
        """All of it together."""
        return self.workspace + self.state + self.home


async def measure(folders: AgentFolders, limiter: anyio.CapacityLimiter | None = None) -> DiskUse:
    """Measure an agent's folders in a worker thread. One that does not exist takes nothing. Cancelling it ends the thread's work soon."""
    stop = threading.Event()
    try:
        return await anyio.to_thread.run_sync(
            lambda: measure_now(folders, should_stop=stop.is_set), limiter=limiter, abandon_on_cancel=True
        )
    finally:
        stop.set()


def measure_now(folders: AgentFolders, *, should_stop: Callable[[], bool] = lambda: False) -> DiskUse:
    """Measure an agent's folders. Blocks. Links are not followed, and nothing is changed."""
    began = time.monotonic()
    counter = _Counter(should_stop)
    workspace, state, home = (counter.size_of(path) for path in (folders.workspace, folders.state, folders.home))
    took = timedelta(seconds=time.monotonic() - began)
    return DiskUse(workspace, state, home, is_complete=counter.is_complete, took=took)


def free_bytes(path: Path) -> int:
    """Tell what an ordinary user may still write to the disk that holds a path: in bytes, or in files of `LEAST_BYTES` where
    their number ends first. Blocks for microseconds."""
    status = os.statvfs(path)
    room = status.f_bavail * status.f_frsize
    # A file system that makes places for files as it needs them says that it has none at all.
    return min(room, status.f_favail * LEAST_BYTES) if status.f_files else room


class _Counter:
    """Counts over several trees, so that a file with names in two of them counts once."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.is_complete = True
        self._should_stop = should_stop
        self._seen: set[tuple[int, int]] = set()
        self._entries = 0

    def size_of(self, path: Path) -> int:
        try:
            with opened_folder(path) as top:
                walk = Walk(top, should_stop=self._is_enough)
                total = sum(self._allocated(found.status) for found in walk if found.step is not Step.LEAVE)
        except FileNotFoundError:
            return 0
        except OSError:  # no right to, or a link in its place
            self.is_complete = False
            return 0
        self.is_complete = self.is_complete and walk.missed is None
        return total

    def _allocated(self, status: os.stat_result) -> int:
        self._entries += 1
        if self._entries % BUSY_EVERY == 0:
            time.sleep(0)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in self._seen:
                return 0
            self._seen.add(identity)
        return max(status.st_blocks * BLOCK, LEAST_BYTES)

    def _is_enough(self) -> bool:
        return self._entries > MOST_ENTRIES or self._should_stop()
