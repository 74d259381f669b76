"""An instance's secrets: unpacked into memory at its start, removed at its end."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from cnap_runner.backends.process_launcher.files import SECRETS

PASSWORD_FILE = "server-password"  # noqa: S105 - a file's name


class BadArchive(Exception):
    """What came on standard input is not the archive of secrets that was announced."""


def unpack_secrets(folder: Path, archive: bytes, *, memory: Path | None) -> Path:
    """Unpack the archive where the instance expects its secrets, readable by this user alone; give the folder they really are in.

    ``memory`` is a folder on a memory file system; without one they lie in the instance's folder. Raises `BadArchive`, `OSError`.
    """
    remove_secrets(folder)
    place = folder / SECRETS
    if memory is None:
        place.mkdir(mode=0o700)
    else:
        # The link comes second: a folder it does not lead to yet holds nothing.
        place.symlink_to(tempfile.mkdtemp(prefix=_prefix(folder), dir=memory))
    _unpack_all(archive, place)
    return place.resolve()


def exchange_secrets(place: Path, archive: bytes) -> None:
    """Replace the files of a live instance by those of an archive: each is there at each moment, old or new, never in part.

    Files of folders inside are not exchanged, and folders are refused. Raises `BadArchive`, then nothing is changed, and `OSError`.
    """
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=place))
    try:
        _unpack_all(archive, draft)
        fresh = sorted(draft.iterdir())
        if any(path.is_dir() for path in fresh):
            raise BadArchive("a running instance's secrets hold no folders")
        for path in fresh:
            path.replace(place / path.name)
        for path in place.iterdir():
            if path.is_file() and path.name not in {new.name for new in fresh}:
                path.unlink()
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_password(folder: Path) -> str:
    """Read the server's password: the first line of its file. Raises `BadArchive` where there is none."""
    try:
        password = (folder / SECRETS / PASSWORD_FILE).read_text(encoding="utf-8").partition("\n")[0]
    except FileNotFoundError:
        password = ""
    if not password:
        raise BadArchive(f"the secrets hold no {PASSWORD_FILE}; a server without a password is refused")
    return password


def remove_secrets(folder: Path) -> None:
    """Remove an instance's secrets. None there: nothing happens. A link is followed only to a folder of this instance."""
    place = folder / SECRETS
    if not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
        return
    target = place.readlink()
    if target.name.startswith(_prefix(folder)):
        shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        place.unlink()


def _prefix(folder: Path) -> str:
    return f"cnap-runner-{folder.name}-"


def _unpack_all(archive: bytes, place: Path) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                _unpack(tar, member, place)
    except tarfile.TarError as error:
        raise BadArchive("they are no tar archive") from error


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise BadArchive(f"the archive names {member.name!r}, which lies outside of its folder")
    target = place / name
    if member.isdir():
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    source = tar.extractfile(member) if member.isfile() else None
    if source is None:
        raise BadArchive(f"the archive holds {member.name!r}, which is no plain file")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:  # noqa: PTH123
        file.write(source.read())
