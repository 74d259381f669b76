"""The folder of all instances of a data folder: making, finding, locking and removing theirs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio
from anyio.to_thread import run_sync

from cnap_runner.backends.process.record import InstanceRecord, read_record
from cnap_runner.backends.process_launcher.files import INSTANCE_FILE, LOCK_FILE, write_json
from cnap_runner.backends.process_launcher.status import LauncherStatus, read_status
from cnap_runner.errors import (
    BackendError,
    EnginePermissionDenied,
    InstanceNotFound,
    InstanceStartFailed,
    InsufficientResources,
    InvalidInput,
)

_T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LOCK_POLL_SECONDS = 0.02


class InstanceFolders:
    """Access to ``data_dir/processes``. Methods block unless they are coroutines."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir.absolute() / "processes"

    def path(self, instance_id: str) -> Path:
        """Tell where an instance's folder is. Raises `InvalidInput` for an id that is no plain name."""
        if not _NAME.fullmatch(instance_id):
            raise InvalidInput(f"{instance_id!r} is no instance's id.")
        return self.root / instance_id

    def existing(self, instance_id: str) -> Path:
        """Give the folder of an instance that was created; raises `InstanceNotFound`."""
        folder = self.root / instance_id
        if not _NAME.fullmatch(instance_id) or not folder.is_dir():
            raise InstanceNotFound(f"Instance {instance_id} is gone.")
        return folder

    def all(self) -> list[Path]:
        """List the folders of all instances; empty where none was ever made. Raises `BackendError`."""
        with translated(self.root):
            try:
                return sorted(path for path in self.root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
            except FileNotFoundError:
                return []

    def make_root(self) -> None:
        """Make the folder of all instances, for this user alone. Idempotent."""
        with translated(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, instance_id: str, record: InstanceRecord) -> Path:
        """Make an instance's folder in one step; one that is there stays as it is."""
        folder = self.path(instance_id)
        self.make_root()
        with translated(folder):
            draft = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
            try:
                write_json(draft / INSTANCE_FILE, record.to_json())
                draft.rename(folder)
            except OSError as error:
                shutil.rmtree(draft, ignore_errors=True)
                # It was there, or somebody else created it in the meantime.
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
        return folder

    def remove(self, folder: Path) -> None:
        """Remove an instance's folder: at once out of the listing, then for good. Gone already: nothing happens."""
        with translated(folder), contextlib.suppress(FileNotFoundError):
            removed = tempfile.mkdtemp(prefix=".removed-", dir=self.root)
            folder.rename(removed)
            shutil.rmtree(removed)

    def remove_root(self) -> None:
        """Remove the folder of all instances. Raises `BackendError` while there is one."""
        if left := self.all():
            raise BackendError(f"{len(left)} instances are still in {self.root}.", hint="Remove them first.")
        with translated(self.root), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root)

    @contextlib.asynccontextmanager
    async def locked(self, instance_id: str) -> AsyncIterator[HeldInstance]:
        """Keep other processes and tasks from starting, pausing or ending an instance; held for moments only.

        Raises `InstanceNotFound`, also when the instance was removed while this waited.
        """
        folder = await run_sync(self.existing, instance_id)
        while (lock := await run_sync(try_lock, folder)) is None:
            await anyio.sleep(_LOCK_POLL_SECONDS)
        with lock:
            yield HeldInstance(folder, lock)


class HeldInstance:
    """An instance whose lock is held."""

    def __init__(self, folder: Path, lock: BinaryIO) -> None:
        self.folder = folder
        self._lock = lock

    async def do(self, act: Callable[..., _T], *arguments: object) -> _T:
        """Call ``act(folder, *arguments)`` in a thread.

        A thread goes on when its caller is cancelled; it therefore has a share in the lock, which is free when both let go.
        """
        share = os.fdopen(os.dup(self._lock.fileno()), "rb")

        def acting() -> _T:
            with share, translated(self.folder):
                return act(self.folder, *arguments)

        return await run_sync(acting)


def try_lock(folder: Path) -> BinaryIO | None:
    """Take an instance's lock, or None when somebody holds it. Closing the file gives it back; so does the holder's death.

    A file, not a bare descriptor: when the caller is cancelled before it gets the answer, dropping it closes it.
    """
    path = folder / LOCK_FILE
    try:
        with translated(folder):
            lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
            except BlockingIOError:
                lock.close()
                return None
            except FileNotFoundError:
                lock.close()
                raise
            lock.close()
    except FileNotFoundError:
        raise InstanceNotFound(f"Instance {folder.name} is gone.") from None
    return None


def load_record(folder: Path) -> InstanceRecord:
    """Read what an instance was created as. Raises `InstanceNotFound`; `BackendError` when it cannot be read."""
    try:
        return read_record(folder)
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise InstanceNotFound(f"Instance {folder.name} is gone.") from None
        raise unreadable(folder, error) from error
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from error


def load_status(folder: Path) -> LauncherStatus | None:
    """Read how far an instance is; None before its first start. Raises `BackendError` when it cannot be read."""
    try:
        return read_status(folder)
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from error


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the file system says into errors of this package; a file that is not there is the caller's to judge."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _translate(path, error) from error


def unreadable(path: Path, error: Exception) -> BackendError:
    """Say that an instance's state cannot be read, which is not the same as there being none."""
    kind = EnginePermissionDenied if isinstance(error, PermissionError) else BackendError
    return kind(
        f"The state of an instance cannot be read: {path}: {error}.",
        hint="Mend the file's rights or remove the instance; nothing is concluded from what cannot be read.",
    )


def _translate(path: Path, error: OSError) -> BackendError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return InsufficientResources(f"No space is left for {path}.")
    if isinstance(error, PermissionError):
        return EnginePermissionDenied(f"This user may not use {path}.", hint="Give it the right to.")
    return InstanceStartFailed(f"{path} cannot be used: {error.strerror or error}.")
