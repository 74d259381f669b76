"""The folder where fetched and unpacked parts of images are kept, shared by all installs and processes of a user."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnap_runner.errors import InsufficientResources


def cache_dir() -> Path:
    """Give the cache folder: ``CNAP_RUNNER_CACHE_DIR``, else ``cnap-runner`` in the user's cache folder. May not exist yet."""
    own = os.environ.get("CNAP_RUNNER_CACHE_DIR")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
    return base / "cnap-runner"


_FOLDER_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Hold one entry of the cache for one process at a time, making its folder if need be.

    Blocks until the entry is free; the lock ends with the process that holds it. Raises `InsufficientResources` where the
    folder cannot be used, also where the body finds that out.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = entry.with_name(f".{entry.name}.lock").open("w")
    except OSError as error:
        raise _unusable(entry.parent, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except OSError as error:
            # The errors of HTTP libraries are OSErrors too; they have no number and are not about this folder.
            if error.errno in _FOLDER_TROUBLE:
                raise _unusable(entry.parent, error) from error
            raise


def _unusable(folder: Path, error: OSError) -> InsufficientResources:
    return InsufficientResources(
        f"The cache folder {folder} cannot be used: {error.strerror or error}.",
        hint="Free space there, or name another folder with CNAP_RUNNER_CACHE_DIR.",
    )
