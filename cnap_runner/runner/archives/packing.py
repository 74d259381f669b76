"""Writing an archive: a gzipped tar, streamed; whole under its name, or not there. Everything here blocks.

The folders are an agent's own, so no name in them is believed: nothing is followed, only regular files are read (`confined`).
"""

from __future__ import annotations

import gzip
import io
import os
import secrets as random_names
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnap_runner.errors import InsufficientResources, RunnerError
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.archives.manifest import END, MANIFEST, Entry, Manifest, Tally
from cnap_runner.runner.archives.scanning import Scanner
from cnap_runner.runner.workspaces.confined import Found, Step, Walk, open_regular, opened_folder
from cnap_runner.runner.workspaces.folders import folder_error

LEFT_OUT = frozenset(f"state/opencode/{name}" for name in ("auth.json", "mcp-auth.json", "log", "opencode.db-shm"))
"""OpenCode's own logins; its logs, which may quote what was redacted elsewhere; and what SQLite makes anew."""

PIECE = 1 << 20
HUGE_AND_HOLLOW = 1 << 30
"""Bytes above which a file that is mostly holes is left out: read as what it seems to be, it would fill any disk."""

LONGEST_NAME = 3500
"""Bytes above which a name is left out: the kernel takes 4095 for a whole path, and the data folder it is imported to is a part of that."""

LEVEL = 4
"""Of gzip: twice as fast as the usual 6, for some percent more."""


class Stopped(Exception):
    """The caller does not want it any more."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is to be packed."""

    trees: Mapping[str, Path]
    """Name in the archive → folder."""
    describe: Callable[[int, int], Manifest]
    """Makes the manifest from the number of files and of bytes."""
    secrets: Mapping[str, str]
    """Name → value, to be looked for."""


def pack(contents: Contents, target: Path, *, listener: ArchiveListener, should_stop: Callable[[], bool]) -> Manifest:
    """Write an archive, readable by its owner alone. Raises `RunnerError`, `InsufficientResources` and `Stopped`."""
    try:
        manifest = contents.describe(*_count(contents, should_stop))
        with (
            _draft(target) as raw,
            # No name and no time of ours: the same contents give the same bytes.
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=LEVEL, mtime=0) as packed,
            tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, copybufsize=PIECE) as archive,
        ):
            packer = _Packer(archive, Scanner(contents.secrets), manifest, listener, should_stop)
            packer.add_text(MANIFEST, packer.head)
            for name, folder in contents.trees.items():
                packer.add_tree(name, folder)
            packer.add_text(END, packer.tally.to_json())
    except OSError as error:
        raise _error(target, error) from error
    return manifest


def _count(contents: Contents, should_stop: Callable[[], bool]) -> tuple[int, int]:
    files = size = 0
    for name, folder in contents.trees.items():
        for path, found in _walk(name, folder, should_stop, missed=lambda _: None):
            files += 1
            size += found.status.st_size if stat.S_ISREG(found.status.st_mode) and path not in LEFT_OUT else 0
    if should_stop():
        raise Stopped
    return files, size


def _walk(
    name: str, folder: Path, should_stop: Callable[[], bool], *, missed: Callable[[str], None]
) -> Iterator[tuple[str, Found]]:
    """Go through a tree, folders before what is in them, without what is left out. One that is not there is empty."""
    # An operator may have put the folder itself elsewhere; nothing below it is followed.
    with opened_folder(folder.resolve()) as top:
        walk = Walk(top, should_stop=should_stop)
        for found in walk:
            inside = walk.path_of("" if found.step is Step.ENTER else found.name).rstrip("/")
            path = f"{name}/{inside}".rstrip("/")
            if found.step is not Step.LEAVE and not _is_left_out(path):
                yield path, found
        if walk.missed is not None:
            missed(f"{name}/{walk.missed}")


def _is_left_out(path: str) -> bool:
    return path in LEFT_OUT or "/".join(path.split("/")[:3]) in LEFT_OUT


@contextmanager
def _draft(target: Path) -> Iterator[io.BufferedWriter]:
    """Write beside the target and give it its name at the end; nothing is left when that is not reached."""
    draft = target.parent / f".{target.name}.{random_names.token_hex(4)}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


class _Packer:
    """Puts members into an archive, one after the other."""

    def __init__(
        self,
        archive: tarfile.TarFile,
        scanner: Scanner,
        manifest: Manifest,
        listener: ArchiveListener,
        should_stop: Callable[[], bool],
    ) -> None:
        self.head = manifest.to_json()
        self.tally = Tally(self.head)
        self._archive = archive
        self._scanner = scanner
        self._manifest = manifest
        self._listener = listener
        self._should_stop = should_stop

    def add_text(self, name: str, data: bytes) -> None:
        """Add one of our own members."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o600
        self._archive.addfile(member, io.BytesIO(data))

    def add_tree(self, name: str, folder: Path) -> None:
        """Add all that lies in a folder."""
        for path, found in _walk(name, folder, self._should_stop, missed=self._say_unreadable):
            if len(os.fsencode(path)) > LONGEST_NAME:
                self._listener.on_warning(f"{_quoted(path[:200])}… is left out: its name is too long.")
            elif found.step is Step.ENTER:
                self._add(path, found, tarfile.DIRTYPE)
            elif stat.S_ISREG(found.status.st_mode):
                self._add_file(path, found)
            elif stat.S_ISLNK(found.status.st_mode):
                self._add(path, found, tarfile.SYMTYPE, target=os.readlink(found.name, dir_fd=found.folder))
            else:
                self._listener.on_warning(f"{_quoted(path)} is left out: it is a pipe, a socket or a device.")
            self._archive.members.clear()  # type: ignore[attr-defined] # the library would remember every one
        if self._should_stop():
            raise Stopped

    def _add_file(self, path: str, found: Found) -> None:
        try:
            descriptor = open_regular(found.name, found.folder)
        except OSError:  # no right to, gone, or something else by now
            self._say_unreadable(path)
            return
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size > HUGE_AND_HOLLOW and status.st_blocks * 512 * 4 < status.st_size:
                self._listener.on_warning(
                    f"{_quoted(path)} is left out: its {status.st_size >> 20} MiB are mostly holes."
                )
                return
            member = self._member(path, status, tarfile.REGTYPE)
            self.tally.begin(Entry(path, "file", member.mode, member.size))
            self._scanner.begin()
            self._archive.addfile(member, _Tap(file, self._see))  # type: ignore[arg-type]
        for name in self._scanner.found:
            self._listener.on_warning(f"{_quoted(path)} holds the value of secret {name}, and so does the archive.")

    def _add(self, path: str, found: Found, kind: bytes, *, target: str = "") -> None:
        member = self._member(path, found.status, kind)
        member.size, member.linkname = 0, target
        word = "folder" if kind == tarfile.DIRTYPE else "link"
        self.tally.begin(Entry(path, word, member.mode, 0, target))
        self._archive.addfile(member)

    def _member(self, path: str, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
        member = tarfile.TarInfo(path)
        member.type, member.size, member.mtime = kind, status.st_size, int(status.st_mtime)
        member.mode = stat.S_IMODE(status.st_mode) & 0o777
        return member

    def _see(self, piece: bytes) -> None:
        if self._should_stop():
            raise Stopped
        self.tally.add(piece)
        self._scanner.feed(piece)
        self._listener.on_progress(self.tally.bytes, max(self._manifest.size_bytes, self.tally.bytes))

    def _say_unreadable(self, path: str) -> None:
        self._listener.on_warning(f"{_quoted(path)} is left out: it could not be read.")


class _Tap:
    """A file of which each piece that is read is seen."""

    def __init__(self, file: io.FileIO, see: Callable[[bytes], None]) -> None:
        self._file = file
        self._see = see

    def read(self, size: int) -> bytes:
        """Read exactly so much, unless the file ends."""
        parts: list[bytes] = []
        while size > 0 and (piece := self._file.read(size)):
            self._see(piece)
            parts.append(piece)
            size -= len(piece)
        return b"".join(parts)


def _quoted(path: str) -> str:
    return repr(path) if not path.isprintable() or len(path) > 300 else path


def _error(target: Path, error: OSError) -> RunnerError:
    if str(error) == "unexpected end of data":  # what the library says of a file that became shorter
        return RunnerError(
            "A file became shorter while it was read.", hint="Export again when nobody writes to the workspace."
        )
    translated = folder_error(target.parent, error)
    hint = "Write the archive to another disk." if isinstance(translated, InsufficientResources) else None
    return type(translated)(translated.message, hint=hint or "Name another file for the archive.")
