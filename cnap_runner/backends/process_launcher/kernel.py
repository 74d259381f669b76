"""What the kernel is asked for beyond Python's own means: ``prctl``."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_reaper() -> None:
    """Make this process the parent of all descendants whose own parent ends: none can leave its tree. Raises `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def allow_no_core_dumps() -> None:
    """Keep a crash from writing the memory, and the secrets in it, to the disk; a child may raise it again."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def die_with(parent: int) -> None:
    """In a child between fork and exec: be killed when the parent's thread that forked ends. Raises `OSError`."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the kernel was asked; then nobody would ever send the signal.
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
