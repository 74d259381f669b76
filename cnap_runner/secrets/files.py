"""``file:PATH``: one secret per file, as Docker and Kubernetes mount them.

Whether others may read such a file is not looked at: both mount theirs readable by all, inside a container of its own.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cnap_runner.errors import SecretUnavailable
from cnap_runner.secrets.base import SecretSource

DEFAULT_FOLDER = Path("/run/secrets")
"""Where Docker puts a service's secrets, and where Kubernetes is usually told to."""

LARGEST_FILE = 64 * 1024
"""Bytes. A key or a certificate chain is far below; a whole file system's image is a mistake."""

_LINE_END = re.compile(r"\r?\n\Z")


class FileSource(SecretSource):
    """Files on the manager's side: an absolute path, or a name below ``folder``. One line end at the end is not part of the secret."""

    scheme = "file"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or DEFAULT_FOLDER

    def get(self, name: str) -> str:
        """Return a file's text. Refuses what is no plain file, is too large or is no text, and names that lead out of the folder."""
        path = self._path_of(name)
        try:
            data = _read(path)
        except OSError as error:
            raise SecretUnavailable(f"The secret's file {path} cannot be read: {error.strerror}.") from error
        if len(data) > LARGEST_FILE:
            raise SecretUnavailable(f"The secret's file {path} has more than {LARGEST_FILE} bytes.")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise SecretUnavailable(f"The secret's file {path} is not UTF-8 text.") from None
        return _LINE_END.sub("", text)

    def describe(self) -> str:
        """Say where this is."""
        return f"files, by absolute path or below {self._folder}"

    def stamp(self, name: str) -> int | None:
        """Give the time of the file's last change."""
        try:
            return self._path_of(name).stat().st_mtime_ns
        except (OSError, SecretUnavailable):
            return None

    def _path_of(self, name: str) -> Path:
        path = Path(name)
        if path.is_absolute():
            return path
        # Kubernetes lays each file as a link into a dated folder beside it, so links count by where they lead.
        real, folder = Path(os.path.realpath(self._folder / path)), Path(os.path.realpath(self._folder))
        if ".." in path.parts or not real.is_relative_to(folder) or real == folder:
            raise SecretUnavailable(
                f"The secret's file {name} is not below {self._folder}.", hint="Name any other place by absolute path."
            )
        return real


def _read(path: Path) -> bytes:
    """Read a plain file, one byte more than allowed at most. A pipe would keep its reader waiting for ever, so none is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SecretUnavailable(f"The secret's file {path} is no plain file.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST_FILE + 1)
    finally:
        os.close(descriptor)
