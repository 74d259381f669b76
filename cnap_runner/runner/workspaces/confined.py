"""Files that an agent may change under our hands: looked at, changed and removed without ever leaving the agent's folder.

A path is looked up anew at each call, so between a look and an act somebody can put a link in its place. Here a folder is opened once,
without following a link, and everything below it is named relative to an open folder (``openat`` and its like). Facts: open(2),
O_NOFOLLOW and O_PATH; path_resolution(7). Trees of any depth are worked on with a bounded number of open folders. All functions block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

KEPT_OPEN = 64
"""Folders held open at most. An agent can nest deeper than a process may have files open."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a folder and never a link to one."""
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Hold a folder open. Raises `OSError` where its last part is a link or no folder."""
    descriptor = os.open(path, FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def pinned(name: str, folder: int) -> Iterator[int]:
    """Hold whatever has this name, a link included, without opening it: what is then done to it is done to that and nothing else."""
    descriptor = os.open(name, _PIN, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def path_of_pin(pin: int) -> Path:
    """Give a path that leads to what is pinned, whatever its name says by now (proc(5): ``/proc/self/fd``)."""
    return Path(f"/proc/self/fd/{pin}")


def open_regular(name: str, folder: int) -> int:
    """Open a regular file to read. Raises `OSError` (ELOOP, EINVAL) for a link, a folder, a device, a pipe or a socket; waits for none."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", name)
    return descriptor


def open_below(folder: Path, path: Path) -> int:
    """Open a regular file somewhere below a folder to read, by a relative path without ``..``, following no link on the way.

    Raises `OSError` as `open_regular` does.
    """
    *above, name = path.parts
    if path.is_absolute() or ".." in path.parts:
        raise OSError(errno.EINVAL, "not below the folder", str(path))
    present = os.open(folder, FOLDER & ~os.O_NOFOLLOW)  # the manager's own; the operator may have made it a link
    try:
        for part in above:
            deeper = os.open(part, FOLDER, dir_fd=present)
            os.close(present)
            present = deeper
        return open_regular(name, present)
    finally:
        os.close(present)


def read_file(folder: Path, name: str, *, at_most: int) -> bytes:
    """Read the beginning of a regular file that lies directly in a folder. Raises `OSError` as `open_regular` does."""
    with opened_folder(folder) as top, os.fdopen(open_regular(name, top), "rb") as file:
        return file.read(at_most)


# --- going through a tree ---------------------------------------------------------------------------------------------


class Step(StrEnum):
    """What a `Walk` came to."""

    FILE = "file"
    """Anything but a folder: a file, a link, a device."""
    ENTER = "enter"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Found:
    """One step of a `Walk`."""

    step: Step
    folder: int
    """Of a file: the open folder it lies in. Of a folder: itself, open. Both only until the next step."""
    name: str
    status: os.stat_result


@dataclass(slots=True)
class _Frame:
    descriptor: int | None
    status: os.stat_result
    name: str
    folders: list[str]


class Walk:
    """Goes through all below an open folder, following no link and staying on its file system. Iterate it once.

    What vanishes meanwhile is passed over. What cannot be read is passed over too, and ``missed`` then names the first of it.
    """

    def __init__(self, top: int, *, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.missed: str | None = None
        self._top = top
        self._should_stop = should_stop
        self._frames: list[_Frame] = []

    def path_of(self, name: str) -> str:
        """Give the path, from the top, of a name in the present folder; for messages only."""
        return "/".join([*(frame.name for frame in self._frames[1:]), name])

    def __iter__(self) -> Iterator[Found]:
        try:
            yield from self._enter(os.dup(self._top), "")
            while self._frames:
                frame = self._frames[-1]
                if self._should_stop():
                    self.missed = self.missed or "what was left when it was stopped"
                    return
                if not frame.folders:
                    yield from self._leave()
                elif (descriptor := self._open(frame.folders[-1])) is not None:
                    yield from self._enter(descriptor, frame.folders.pop())
                else:
                    frame.folders.pop()
        finally:
            for frame in self._frames:
                if frame.descriptor is not None:
                    os.close(frame.descriptor)

    def _enter(self, descriptor: int, name: str) -> Iterator[Found]:
        frame = _Frame(descriptor, os.fstat(descriptor), name, [])
        self._frames.append(frame)
        if len(self._frames) > KEPT_OPEN and (far := self._frames[-KEPT_OPEN]).descriptor is not None:
            os.close(far.descriptor)
            far.descriptor = None
        yield Found(Step.ENTER, descriptor, name, frame.status)
        try:
            entries = os.scandir(descriptor)
        except PermissionError:
            self._miss("")
            return
        with entries:
            for entry in entries:
                if self._should_stop():
                    return
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except PermissionError:  # a folder that can be listed, but not searched
                    self._miss(entry.name)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    frame.folders.append(entry.name)
                else:
                    yield Found(Step.FILE, descriptor, entry.name, status)

    def _leave(self) -> Iterator[Found]:
        frame = self._frames[-1]
        descriptor = frame.descriptor
        if descriptor is None:
            raise AssertionError("the present folder is always open")
        yield Found(Step.LEAVE, descriptor, frame.name, frame.status)
        self._frames.pop()
        try:
            if self._frames and self._frames[-1].descriptor is None:
                self._reopen_parent(descriptor, self._frames[-1])
        finally:
            os.close(descriptor)

    def _reopen_parent(self, child: int, frame: _Frame) -> None:
        """Go up. A folder that was moved meanwhile would lead elsewhere: then the walk ends here."""
        above = os.open("..", FOLDER, dir_fd=child)
        if os.path.samestat(os.fstat(above), frame.status):
            frame.descriptor = above
            return
        os.close(above)
        self._miss("")
        while self._frames:
            if (descriptor := self._frames.pop().descriptor) is not None:
                os.close(descriptor)

    def _open(self, name: str) -> int | None:
        folder = self._frames[-1]
        try:
            descriptor = os.open(name, FOLDER, dir_fd=folder.descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # no right to, or a link by now
            self._miss(name)
            return None
        if os.fstat(descriptor).st_dev == folder.status.st_dev:
            return descriptor
        os.close(descriptor)
        self._miss(name)
        return None

    def _miss(self, name: str) -> None:
        self.missed = self.missed or self.path_of(name) or "/"
