"""OpenCode's own log files, which grow for ever: kept short. All that they say is in the instance's output too.

Seen with 1.18.33: it appends to one file, ``log/opencode.log`` in its data folder, over all its starts, opened with ``O_APPEND``, so that it
goes on at the beginning of a file that was cut off; with ``OPENCODE_PRINT_LOGS=1`` the same lines go to standard error.
"""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import islice
from pathlib import Path

from cnap_runner.runner.workspaces.confined import FOLDER, opened_folder

_WAY = ("opencode", "log")
_MOST_FILES = 1000


def cut_server_log(state: Path, *, max_bytes: int) -> int:
    """Empty the log files below an agent's state folder that are larger, and return how many bytes that freed. Blocks.

    The folder is the agent's, so no link is followed and nothing but a regular file is touched. What cannot be cut is left as it is.
    """
    freed = 0
    with contextlib.suppress(OSError), opened_folder(state) as top, contextlib.ExitStack() as opened:
        folder = top
        for part in _WAY:
            folder = os.open(part, FOLDER, dir_fd=folder)
            opened.callback(os.close, folder)
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MOST_FILES)]
        for name in names:
            with contextlib.suppress(OSError):
                freed += _cut(name, folder, max_bytes)
    return freed


def _cut(name: str, folder: int, max_bytes: int) -> int:
    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size <= max_bytes:
            return 0
        os.ftruncate(descriptor, 0)
        return status.st_size
    finally:
        os.close(descriptor)
