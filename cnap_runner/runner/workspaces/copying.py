"""Copying a folder into a new one. Blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cnap_runner.errors import WorkspaceSeedFailed
from cnap_runner.runner.workspaces.confined import FOLDER, KEPT_OPEN, Found, Step, Walk, open_regular, opened_folder

CHUNK = 16 << 20
"""Bytes after which a copy that is not wanted any more is left."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: Path, target: Path, *, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Copy what is in ``source`` into the empty folder ``target``, which nobody else may write to.

    Links stay links and are not followed; each name of a file with several becomes a file of its own; modes (without set-id bits) and
    times are kept, owners are not. Raises `WorkspaceSeedFailed` for devices, pipes and sockets, and for what cannot be read or lies on
    another file system; `OSError` otherwise. ``should_stop`` ends it early, with part of it copied.
    """
    with opened_folder(source) as top, _Mirror(target) as mirror:
        walk = Walk(top, should_stop=should_stop)
        for found in walk:
            if should_stop():
                return
            if found.step is Step.ENTER:
                if found.name:
                    mirror.enter(found.name)
            elif found.step is Step.LEAVE:
                if found.name:
                    mirror.leave(found.status)
            else:
                _copy_entry(found, mirror.folder, source / walk.path_of(found.name), should_stop)
        if walk.missed is not None and not should_stop():
            raise WorkspaceSeedFailed(
                f"{source / walk.missed} cannot be copied into a workspace: no right to read it, or it is on another file system."
            )


class _Mirror:
    """The present folder of the copy, with a bounded number of folders open."""

    def __init__(self, top: Path) -> None:
        self._frames: list[int | None] = [os.open(top, FOLDER)]

    def __enter__(self) -> _Mirror:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for descriptor in self._frames:
            if descriptor is not None:
                os.close(descriptor)

    @property
    def folder(self) -> int:
        descriptor = self._frames[-1]
        if descriptor is None:
            raise AssertionError("the present folder is always open")
        return descriptor

    def enter(self, name: str) -> None:
        os.mkdir(name, stat.S_IRWXU, dir_fd=self.folder)
        self._frames.append(os.open(name, FOLDER, dir_fd=self.folder))
        if len(self._frames) > KEPT_OPEN and (far := self._frames[-KEPT_OPEN]) is not None:
            os.close(far)
            self._frames[-KEPT_OPEN] = None

    def leave(self, status: os.stat_result) -> None:
        """Finish a folder: its mode may forbid writing, so it comes last."""
        folder = self.folder
        if self._frames[-2] is None:
            self._frames[-2] = os.open("..", FOLDER, dir_fd=folder)
        _keep_looks(folder, status)
        self._frames.pop()
        os.close(folder)


def _copy_entry(found: Found, folder: int, path: Path, should_stop: Callable[[], bool]) -> None:
    mode = found.status.st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(found.name, dir_fd=found.folder), found.name, dir_fd=folder)
    elif stat.S_ISREG(mode):
        try:
            source = open_regular(found.name, found.folder)
        except OSError as error:
            raise WorkspaceSeedFailed(f"{path} cannot be read: {error.strerror or error}.") from error
        _copy_file(source, found.name, folder, should_stop)
    else:
        raise WorkspaceSeedFailed(f"{path} is a device, a pipe or a socket, and cannot be copied into a workspace.")


def _copy_file(source: int, name: str, folder: int, should_stop: Callable[[], bool]) -> None:
    """Copy an open file, and close it."""
    try:
        target = os.open(name, _NEW_FILE, stat.S_IRUSR | stat.S_IWUSR, dir_fd=folder)
        try:
            while os.sendfile(target, source, None, CHUNK):
                if should_stop():
                    return
            _keep_looks(target, os.fstat(source))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _keep_looks(descriptor: int, status: os.stat_result) -> None:
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
