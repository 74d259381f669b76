"""An archive that anybody may have made, read as a stream. Everything here blocks.

Headers are looked at before the library acts on them: no hard links, devices, pipes, sparse files, and none that take much memory.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn, Self

from cnap_runner.errors import ArchiveInvalid
from cnap_runner.runner.archives.manifest import MANIFEST, MAX_MANIFEST, Manifest, manifest_from
from cnap_runner.runner.archives.packing import PIECE

MAX_HEADER = 64 << 10
"""Bytes of one extended header. The library reads it into memory as a whole."""

MAX_PADDING = 1 << 20
"""Bytes of zeros behind the last member. Ours have up to 10 KiB."""

KINDS = {tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link"}
"""The only types of members there are, as `manifest.Entry` calls them."""

_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK})


def read_manifest(path: Path) -> Manifest:
    """Read what an archive says of itself, and nothing more. Raises `ArchiveInvalid`."""
    with opened(path) as archive:
        return manifest_from(read_head(archive))


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive as a stream, and say in our words what is wrong with it."""
    try:
        with path.open("rb") as raw:
            if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
                raise ArchiveInvalid(f"{path} is not a file.")
            with (
                gzip.GzipFile(fileobj=raw, mode="rb") as unpacked,
                tarfile.open(  # type: ignore[call-overload] # of a stream it uses nothing but `read`
                    fileobj=_Source(path, unpacked), mode="r|", tarinfo=_Member, bufsize=PIECE
                ) as archive,
            ):
                yield archive
    except (tarfile.TarError, ValueError, RecursionError) as error:
        if isinstance(error, ArchiveInvalid):
            raise
        raise _damaged(path) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        if error.filename is not None and Path(error.filename) == path:
            raise ArchiveInvalid(f"{path} cannot be read: {error.strerror}.") from error
        raise


class _Source:
    """An archive's bytes. What is wrong with reading them is said here, where it cannot be taken for trouble with writing."""

    def __init__(self, path: Path, unpacked: gzip.GzipFile) -> None:
        self._path = path
        self._unpacked = unpacked

    def read(self, size: int) -> bytes:
        """Read up to so much. Raises `ArchiveInvalid`."""
        try:
            return self._unpacked.read(size)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise _damaged(self._path) from error
        except OSError as error:
            raise ArchiveInvalid(f"{self._path} cannot be read: {error.strerror}.") from error


def _damaged(path: Path) -> ArchiveInvalid:
    return ArchiveInvalid(f"{path} is damaged or no archive of an agent.", hint="Copy or export it again.")


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield what is left of the members, remembering none."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # the library would remember every one
        yield member


def refuse_rest(archive: tarfile.TarFile) -> None:
    """Read on to the end of the file, whose last bytes are its own checksum. Raises `ArchiveInvalid` for more than the zeros a tar ends with."""
    rest = archive.fileobj.read(MAX_PADDING + 1)
    if len(rest) > MAX_PADDING or rest.strip(b"\0"):
        raise ArchiveInvalid("The archive goes on after its end.")


def read_head(archive: tarfile.TarFile) -> bytes:
    """Read the manifest as it stands there."""
    member = next(members(archive), None)
    if member is None or member.name != MANIFEST:
        raise ArchiveInvalid("This is no archive of an agent.", hint="`cnap-runner export AGENT` makes one.")
    return read_whole(archive, member, at_most=MAX_MANIFEST)


def read_whole(archive: tarfile.TarFile, member: tarfile.TarInfo, *, at_most: int) -> bytes:
    """Read a small file. Raises `ArchiveInvalid` for one that is none."""
    if not member.isreg() or member.size > at_most or member.issparse():
        raise ArchiveInvalid(f"The archive's {member.name} is not what it should be.")
    return contents(archive, member).read()


def contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """Give the contents of a member that is a file."""
    found = archive.extractfile(member)
    if found is None:
        raise AssertionError("it is a regular file")
    return found


class _Member(tarfile.TarInfo):
    """A header that is looked at before the library acts on it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header block. Raises `ArchiveInvalid` for a kind of member that no archive of ours has."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise ArchiveInvalid("The archive is damaged: it has a member of less than nothing.")
        if member.type in _EXTENDED:
            if member.size > MAX_HEADER:
                raise ArchiveInvalid("The archive has a header that is far too long.")
        elif member.type not in KINDS:
            raise ArchiveInvalid(f"The archive holds {member.name[:200]!r}, which is no file, folder or link.")
        return member

    def _refuse_sparse(self, *_: object) -> NoReturn:
        """Refuse what the library would make a map of in memory, as long as the archive says: an archive of kilobytes can say gigabytes."""
        raise ArchiveInvalid("The archive holds a sparse file.")

    # The library's names for reading the maps of all three newer formats of GNU tar.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse
