"""A copy of the database of an agent's sessions, taken while nothing uses it. All functions block.

The state folder is the agent's: nothing below it is followed if it is a link, whoever this manager is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from cnap_runner.runner.workspaces.confined import FOLDER, open_below, opened_folder
from cnap_runner.runner.workspaces.folders import AgentFolders, folder_error

_FOLDER = "opencode"
_DATABASE = "opencode.db"
_NAMES = (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm")
"""SQLite's database and what belongs to it: only together they are whole."""
_VERSION = "version"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def has_saved(folders: AgentFolders) -> bool:
    """Whether there is a copy of a database."""
    return (folders.saved_state / _DATABASE).is_file()


def saved_version(folders: AgentFolders) -> str | None:
    """Tell which OpenCode had served the sessions that were copied; None: not known."""
    try:
        return (folders.saved_state / _VERSION).read_text(encoding="utf-8") or None
    except OSError:
        return None


def save(folders: AgentFolders, *, version: str | None) -> None:
    """Copy the database, which this OpenCode served last, whole or not at all; without one there is nothing to copy.

    There is no copy yet. Raises as `AgentFolders.make` does.
    """
    draft = folders.saved_state.with_suffix(".new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(mode=0o700, parents=True)
        for name in _NAMES:
            with contextlib.suppress(FileNotFoundError):
                _copy_out(folders.state, name, draft / name)
        if (draft / _DATABASE).exists():
            (draft / _VERSION).write_text(version or "", encoding="utf-8")
            draft.rename(folders.saved_state)
        else:
            shutil.rmtree(draft)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise folder_error(folders.saved_state, error) from error


def restore(folders: AgentFolders) -> None:
    """Put the copy in the place of what is there; it is kept. Raises as `AgentFolders.make` does."""
    try:
        with opened_folder(folders.state) as state:
            place = os.open(_FOLDER, FOLDER, dir_fd=state)
            try:
                for name in _NAMES:
                    _put_back(folders.saved_state / name, name, place)
            finally:
                os.close(place)
    except OSError as error:
        raise folder_error(folders.state, error) from error


def drop(folders: AgentFolders) -> None:
    """Remove the copy, whole: half of one would be half of the sessions when it is put back. None: nothing happens.

    Raises as `AgentFolders.make` does where it stays.
    """
    dropped = folders.saved_state.with_suffix(".dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    try:
        with contextlib.suppress(FileNotFoundError):
            folders.saved_state.rename(dropped)
    except OSError as error:
        raise folder_error(folders.saved_state, error) from error
    shutil.rmtree(dropped, ignore_errors=True)


def _copy_out(state: Path, name: str, target: Path) -> None:
    with os.fdopen(open_below(state, Path(_FOLDER) / name), "rb") as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())


def _put_back(saved: Path, name: str, place: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)
    if not saved.exists():
        return
    owner = os.fstat(place)
    with saved.open("rb") as source, os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=place), "wb") as target:
        shutil.copyfileobj(source, target)
        if os.geteuid() == 0:
            os.fchown(target.fileno(), owner.st_uid, owner.st_gid)
