"""The folder where fetched and unpacked parts of images are kept, shared by all installs and processes of a user."""

from __future__ import annotations

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


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Hold one entry of the cache for one process at a time, making its folder if need be.

    Blocks until the entry is free; the lock ends with the process that holds it. Raises `InsufficientResources` where the
    folder cannot be used, also for such an error of the body.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with entry.with_name(f".{entry.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise InsufficientResources(
            f"The cache folder {entry.parent} cannot be used: {error.strerror or error}.",
            hint="Free space there, or name another folder with CNAP_RUNNER_CACHE_DIR.",
        ) from error
