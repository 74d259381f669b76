"""Whom the proxy works as: what reads the requests of agents needs no right but to read its rules.

A manager that is root gives the proxy's user the right to enter the folder and to read the rules, and the proxy becomes that user once it listens. Where a manager is
not root, the proxy is what the manager is.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NOBODY = 65534
"""Uid and gid that own nothing, on every Linux."""


def make_folder(folder: Path) -> None:
    """Make the folder that managers write and the proxy reads. Idempotent."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0 and folder.stat().st_gid != NOBODY:
        # A user namespace may not have this group: the proxy then stays what it is, see `become_nobody`.
        with contextlib.suppress(OSError):
            os.chown(folder, -1, NOBODY)
            folder.chmod(0o750)


def let_read(descriptor: int) -> None:
    """Let the proxy read an open file that a manager writes."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.fchown(descriptor, -1, NOBODY)
            os.fchmod(descriptor, 0o640)


def make_log_folder(folder: Path) -> None:
    """Make a folder whose files the proxy may rotate. Idempotent."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.chown(folder, NOBODY, NOBODY)


def become_nobody(folder: Path) -> None:
    """Give up root for good, where this process is root and could read the folder without."""
    if os.geteuid() == 0 and folder.stat().st_gid == NOBODY:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
