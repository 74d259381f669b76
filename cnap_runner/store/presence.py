"""Who is alive, and who may set up: advisory locks (``flock``) on files of the data folder.

A lock belongs to an open file description, so two managers of one process exclude each other just as two processes do, and the
kernel gives it back the moment its process dies, however it dies. Close-on-exec keeps it from programs the manager starts. A plain
``fork`` copies the descriptor, and the lock would live as long as any copy: a forked child closes its copies at once (closing one
copy does not unlock the others). The child then holds nothing, and a manager refuses to work in it.

The folder must be on a local file system, as SQLite's own file must.
"""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread

from cnap_runner.errors import StoreBusy, StoreError

MANAGERS_FOLDER = "managers"
INSTALL_LOCK = "install.lock"
KEEPER_LOCK = "keeper.lock"
METRICS_LOCK = "metrics.lock"

_FIRST_PAUSE = timedelta(milliseconds=5)
_LONGEST_PAUSE = timedelta(milliseconds=100)

_held: weakref.WeakSet[_FileLock] = weakref.WeakSet()
"""Locks of this process, for its forked children to let go of. A process has one set of descriptors, hence one set of these."""


class _FileLock:
    """An exclusive lock on one file, as an async context manager. Waits by asking again, so that waiting can be cancelled."""

    def __init__(self, path: Path, *, time_limit: timedelta) -> None:
        self._path = path
        self._time_limit = time_limit
        self._descriptor: int | None = None
        self._is_wanted = False
        self._guard = threading.Lock()

    @property
    def is_held(self) -> bool:
        """Whether this process holds it through this object. False in a forked child."""
        return self._descriptor is not None

    async def __aenter__(self) -> Self:
        self._is_wanted = True
        try:
            await self._wait()
        except BaseException:
            await self._give_back()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._give_back()

    async def _wait(self) -> None:
        pause = _FIRST_PAUSE
        deadline = anyio.current_time() + self._time_limit.total_seconds()
        while not await to_thread.run_sync(self._try_to_take):
            if anyio.current_time() >= deadline:
                raise StoreBusy(f"Another process holds {self._path} for too long.", hint="Try again.")
            await anyio.sleep(pause.total_seconds())
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _give_back(self) -> None:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._let_go)

    def _try_to_take(self) -> bool:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be opened: {error.strerror}.") from error
        try:
            # Somebody has it, or it was cleaned away between our opening and locking it.
            taken = _lock(descriptor, fcntl.LOCK_EX) and _is_file_at(descriptor, self._path)
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"{self._path} cannot be locked: {error.strerror}.") from error
        if not (taken and self._keep(descriptor)):
            os.close(descriptor)
            return False
        return True

    def _keep(self, descriptor: int) -> bool:
        # A cancelled caller does not wait for this thread; what it takes too late must not stay.
        with self._guard:
            if self._is_wanted:
                self._descriptor = descriptor
                _held.add(self)
            return self._is_wanted

    def _let_go(self) -> None:
        with self._guard:
            self._is_wanted = False
            descriptor, self._descriptor = self._descriptor, None
            _held.discard(self)
        if descriptor is not None:
            self._before_release()
            os.close(descriptor)

    def _before_release(self) -> None:
        """Do what must happen while it is still locked."""


class InstallLock(_FileLock):
    """``install.lock``: held for the first start, migrations and networks. Raises `StoreBusy` after ``time_limit``."""

    def __init__(self, data_dir: Path, *, time_limit: timedelta = timedelta(seconds=60)) -> None:
        super().__init__(data_dir / INSTALL_LOCK, time_limit=time_limit)


class MetricsLock(_FileLock):
    """Held by the manager that serves the install's metrics. Raises `StoreBusy` at once while another one does."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / MANAGERS_FOLDER / METRICS_LOCK, time_limit=timedelta(0))


class ManagerLock(_FileLock):
    """A manager's life: held from before its row is written until its process ends or it signs off."""

    def __init__(self, data_dir: Path, manager_id: str) -> None:
        # Its id is new: nobody but a checker, for microseconds, can have the file's lock.
        super().__init__(_file_of(data_dir, manager_id), time_limit=timedelta(seconds=5))
        self.manager_id = manager_id

    def _before_release(self) -> None:
        # A file that is there without a lock is thus one whose manager was killed.
        with suppress(OSError):
            self._path.unlink()


class LogLock(_FileLock):
    """Held by the one manager that collects an agent's output. Raises `StoreBusy` at once where another one does."""

    def __init__(self, data_dir: Path, agent_id: str) -> None:
        super().__init__(data_dir / MANAGERS_FOLDER / "logs" / f"{agent_id}.lock", time_limit=timedelta(0))

    def _before_release(self) -> None:
        with suppress(OSError):
            self._path.unlink()


class KeeperLock(_FileLock):
    """``managers/keeper.lock``: held for one look at the agents that are due. Raises `StoreBusy` at once where another process has it."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / MANAGERS_FOLDER / KEEPER_LOCK, time_limit=timedelta(0))


def liveness(data_dir: Path) -> Callable[[str], bool]:
    """Give the ``is_alive`` of an install, as `Store` wants it: from any thread, at once, and without raising."""
    return lambda manager_id: is_alive(data_dir, manager_id)


def is_alive(data_dir: Path, manager_id: str) -> bool:
    """Whether a manager's process lives. Where that cannot be found out it counts as alive: nothing of it is touched then."""
    try:
        descriptor = os.open(_file_of(data_dir, manager_id), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # Shared, so that two that ask at the same moment do not take each other for the manager.
        return not _lock(descriptor, fcntl.LOCK_SH)
    except OSError:
        return True
    finally:
        os.close(descriptor)


def remove_dead_files(data_dir: Path) -> list[str]:
    """Remove the lock files of dead managers and return their ids. Blocks for the listing of one folder."""
    folder = data_dir / MANAGERS_FOLDER
    dead = [path.stem for path in folder.glob("*.lock") if _remove_if_dead(path)] if folder.is_dir() else []
    return sorted(dead)


def _remove_if_dead(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Removed under the lock: a manager that has opened, but not locked it yet, sees that its file is gone and makes another.
        if not _lock(descriptor, fcntl.LOCK_SH):
            return False
        path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _file_of(data_dir: Path, manager_id: str) -> Path:
    return data_dir / MANAGERS_FOLDER / f"{manager_id}.lock"


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _let_go_in_child() -> None:
    for lock in list(_held):
        descriptor, lock._descriptor = lock._descriptor, None  # noqa: SLF001 - its own module
        if descriptor is not None:
            os.close(descriptor)


os.register_at_fork(after_in_child=_let_go_in_child)
