"""Unpacking an archive that anybody may have made. Everything here blocks.

What can go wrong is decided member by member, before anything of it is written:

- A name stays below one of the three trees, and its folder came before it; nothing is written twice, so nothing is written through a link.
- Only files, folders and symbolic links: no hard links, devices, pipes, sparse files. Of the mode only the nine permission bits count,
  without those that let others write; owners in the archive count for nothing.
- Links are made last, and those that lead out of their tree are not made.
- The size is what was unpacked, not what was promised, and so is what memory the headers take. It ends at ``max_bytes``.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cnap_runner.errors import ArchiveInvalid
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.archives.manifest import END, Entry, Manifest, Tally, check_name, manifest_from
from cnap_runner.runner.archives.packing import PIECE, Stopped
from cnap_runner.runner.archives.reading import (
    KINDS,
    MAX_HEADER,
    contents,
    members,
    opened,
    read_head,
    read_whole,
    refuse_rest,
)
from cnap_runner.runner.workspaces.folders import folder_error

MAX_FILES = 5_000_000
MAX_LINKS = 500_000
"""They are kept in memory until the end."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an archive is unpacked to: new folders that nobody else writes to."""

    trees: dict[str, Path]
    """Name in the archive → folder, which is there and empty."""
    owner: tuple[int, int] | None
    """Whom all of it is given to; None: as it is made."""
    max_bytes: int


def unpack(path: Path, target: Target, *, listener: ArchiveListener, should_stop: Callable[[], bool]) -> None:
    """Unpack a whole archive. Raises `ArchiveInvalid`, `InsufficientResources` and `Stopped`; the target is then half filled."""
    with opened(path) as archive:
        head = read_head(archive)
        manifest = manifest_from(head)
        tally = Tally(head if manifest.format > 1 else b"")
        unpacker = _Unpacker(archive, target, manifest, listener, should_stop, tally)
        for member in members(archive):
            if unpacker.is_complete:
                raise ArchiveInvalid("The archive goes on after its end.")
            unpacker.add(member)
        if not unpacker.is_complete:
            raise ArchiveInvalid("The archive is cut short.", hint="Copy or export it again.")
        refuse_rest(archive)
        unpacker.finish()


@dataclass(slots=True)
class _Unpacker:
    """Writes members, one after the other."""

    archive: tarfile.TarFile
    target: Target
    manifest: Manifest
    listener: ArchiveListener
    should_stop: Callable[[], bool]
    _tally: Tally
    is_complete: bool = False
    _promised: int = 0
    """Bytes of all files so far, as their headers say."""
    _folders: list[tuple[Path, int, float]] = field(default_factory=list)
    """Path, mode and time, set at the end: one without the right to write could not be filled."""
    _links: list[tuple[PurePosixPath, str]] = field(default_factory=list)

    def add(self, member: tarfile.TarInfo) -> None:
        """Write one member, or keep a link for the end."""
        self._stop_here()
        if member.name == END:
            self.is_complete = True
            if read_whole(self.archive, member, at_most=MAX_HEADER) != self._tally.to_json():
                raise ArchiveInvalid("The archive is damaged: its contents are not what was packed.")
            return
        name = check_name(member.name)
        if member.issparse() or member.size < 0:
            raise ArchiveInvalid(f"The archive holds {member.name[:200]!r}, which is a sparse file.")
        kind = KINDS[member.type]
        size = member.size if kind == "file" else 0
        self._tally.begin(Entry(member.name, kind, member.mode, size, member.linkname if kind == "link" else ""))
        self._check_room(size)
        path = self._path_of(name)
        with _explained(member.name):
            if kind == "folder":
                self._add_folder(name, path, member)
            elif kind == "file":
                self._add_file(path, member)
            else:
                self._links.append((name, member.linkname))

    def finish(self) -> None:
        """Make the links, then give the folders the modes they had."""
        made = [link for link in self._links if self._make_link(*link)]
        # Links may lead over others, so only when all are there does the file system know where each ends.
        for name, to in made:
            self._stop_here()
            if not _is_below(os.path.realpath(self._path_of(name)), os.path.realpath(self.target.trees[name.parts[0]])):
                self._path_of(name).unlink()
                self._say_left_out(name, to)
        for path, mode, at in reversed(self._folders):
            path.chmod(mode)
            _set_time(path, at)

    def _stop_here(self) -> None:
        if self.should_stop():
            raise Stopped

    def _check_room(self, size: int) -> None:
        self._promised += size
        if self._promised > self.target.max_bytes:
            raise ArchiveInvalid(
                f"The archive unpacks to more than {self.target.max_bytes >> 20} MiB.",
                hint="Allow more (`--max-size`), and have that much room on the data folder's disk.",
            )
        if self._tally.files > MAX_FILES or len(self._links) > MAX_LINKS:
            raise ArchiveInvalid("The archive holds far too many files.")

    def _path_of(self, name: PurePosixPath) -> Path:
        if name.parts[0] not in self.target.trees:
            raise ArchiveInvalid(f"The archive holds {name.parts[0]}/, and its manifest does not say so.")
        return self.target.trees[name.parts[0]].joinpath(*name.parts[1:])

    def _add_folder(self, name: PurePosixPath, path: Path, member: tarfile.TarInfo) -> None:
        if len(name.parts) == 1:
            return  # a tree itself, which is there and has the mode that it should
        path.mkdir(mode=0o700)
        self._folders.append((path, (member.mode & 0o755) | 0o700, member.mtime))
        self._give(path)

    def _add_file(self, path: Path, member: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        packed = contents(self.archive, member)
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            while piece := packed.read(PIECE):
                self._stop_here()
                file.write(piece)
                self._tally.add(piece)
                self.listener.on_progress(self._tally.bytes, max(self.manifest.size_bytes, self._tally.bytes))
            os.fchmod(file.fileno(), (member.mode & 0o755) | 0o600)
            if self.target.owner is not None:
                os.fchown(file.fileno(), *self.target.owner)
        _set_time(path, member.mtime)

    def _make_link(self, name: PurePosixPath, to: str) -> bool:
        self._stop_here()
        if PurePosixPath(to).is_absolute():
            self._say_left_out(name, to)
            return False
        path = self._path_of(name)
        with _explained(str(name)):
            path.symlink_to(to)
            self._give(path)
        return True

    def _say_left_out(self, name: PurePosixPath, to: str) -> None:
        self.listener.on_warning(f"The link {str(name)!r} is left out: it leads out of the folder, to {to[:200]!r}.")

    def _give(self, path: Path) -> None:
        if self.target.owner is not None:
            os.chown(path, *self.target.owner, follow_symlinks=False)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def _set_time(path: Path, at: float) -> None:
    with suppress(OverflowError, ValueError, OSError):  # an impossible time is no reason to refuse a file
        os.utime(path, (int(at), int(at)), follow_symlinks=False)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Tell what is wrong with a member from what is wrong with our disk."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}:
            raise ArchiveInvalid(f"The archive holds {name[:200]!r} in a place where it cannot be.") from error
        raise folder_error(Path(error.filename or "."), error) from error
