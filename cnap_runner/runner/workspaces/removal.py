"""Removing what an agent filled, whatever rights, depth and names it has, without leaving its folder. All functions block."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnap_runner.errors import RunnerError
from cnap_runner.runner.workspaces.confined import FOLDER, KEPT_OPEN, path_of_pin, pinned


@dataclass(slots=True)
class _Doomed:
    descriptor: int
    name: str
    folders: list[str]


def remove(path: Path) -> None:
    """Remove a file, a link or a whole tree, whatever rights and depth it has. Gone already: nothing happens.

    Links are never followed, and what lies on another file system is left alone. Raises `RunnerError` naming what stays.
    """
    try:
        with contextlib.suppress(FileNotFoundError), _folder_above(path) as above:
            _remove_name(path.name, above)
    except OSError as error:
        raise _stays(path, error) from error


@contextlib.contextmanager
def _folder_above(path: Path) -> Iterator[int]:
    """Open the folder above, which is the manager's own; the operator may have made it a link."""
    descriptor = os.open(path.parent, FOLDER & ~os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove_name(name: str, folder: int) -> None:
    try:
        descriptor = _open_doomed(name, folder)
    except NotADirectoryError:
        os.unlink(name, dir_fd=folder)
        return
    try:
        _remove_contents(descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=folder)


def _remove_contents(top: int) -> None:
    """Remove what is below an open folder. What lies too deep is moved up to it first, so that few folders are open."""
    moved = 0
    frames = [_Doomed(top, "", _remove_files(top))]
    try:
        while frames[-1].folders or len(frames) > 1:
            frame = frames[-1]
            if not frame.folders:
                os.close(frames.pop().descriptor)
                os.rmdir(frame.name, dir_fd=frames[-1].descriptor)
                continue
            name = frame.folders.pop()
            try:
                descriptor = _open_doomed(name, frame.descriptor)
            except NotADirectoryError:
                os.unlink(name, dir_fd=frame.descriptor)
                continue
            if len(frames) < KEPT_OPEN:
                frames.append(_Doomed(descriptor, name, []))
                frames[-1].folders = _remove_files(descriptor)
                continue
            os.close(descriptor)
            moved += 1
            aside = f".cnap-runner-removed-{os.getpid()}-{moved}"
            os.rename(name, aside, src_dir_fd=frame.descriptor, dst_dir_fd=top)
            frames[0].folders.append(aside)
    finally:
        for frame in frames[1:]:
            os.close(frame.descriptor)


def _open_doomed(name: str, folder: int) -> int:
    """Open a folder that is to be removed, after giving ourselves the rights to. Raises `NotADirectoryError` for anything else."""
    with pinned(name, folder) as pin:
        status = os.fstat(pin)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "no folder", name)
        if status.st_dev != os.fstat(folder).st_dev:
            raise OSError(errno.EXDEV, "another file system is mounted there", name)
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(PermissionError):  # another's: what follows says so
                path_of_pin(pin).chmod(stat.S_IRWXU)
        return os.open(".", FOLDER, dir_fd=pin)


def _remove_files(folder: int) -> list[str]:
    """Remove all but folders, and name those."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
                continue
            try:
                os.unlink(entry.name, dir_fd=folder)
            except IsADirectoryError:  # it was a file a moment ago
                folders.append(entry.name)
    return folders


def _stays(path: Path, error: OSError) -> RunnerError:
    name = f" ({os.fsdecode(error.filename)!r})" if error.filename and str(error.filename) != str(path) else ""
    if isinstance(error, PermissionError):
        return RunnerError(
            f"Some files in {path} belong to another user and could not be removed{name}.",
            hint=f"Remove {path} by hand, as their owner or as root.",
        )
    return RunnerError(
        f"Some files in {path} could not be removed: {error.strerror or error}{name}.",
        hint="Unmount what is mounted there and end what writes there, then try again.",
    )
