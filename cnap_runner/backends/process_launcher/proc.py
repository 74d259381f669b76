"""What ``/proc`` says about processes, and signals that cannot hit the wrong one.

A process is known by its pid, its start time and the boot it started in: the kernel gives a pid away again, the three never.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

PROC = Path("/proc")
_DEAD = frozenset("ZXx")
_STOPPED = frozenset("Tt")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, for ever."""

    pid: int
    start_time: int
    """Clock ticks between boot and its start: field 22 of ``/proc/PID/stat``."""
    boot_id: str
    """``/proc/sys/kernel/random/boot_id`` when it started."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One line of ``/proc/PID/stat``, as far as it is used."""

    pid: int
    state: str
    parent: int
    cpu_ticks: int
    """User and system time of the process and of its children that ended and were waited for."""
    threads: int
    start_time: int

    @property
    def is_alive(self) -> bool:
        """Whether it can still do something; a zombie cannot."""
        return self.state not in _DEAD

    @property
    def is_stopped(self) -> bool:
        """Whether a stop signal froze it."""
        return self.state in _STOPPED


def boot_id() -> str:
    """Tell which boot of the machine this is."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_stat(pid: int) -> ProcessStat | None:
    """Read one process; None when there is none of that pid."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may itself hold spaces and parentheses: what follows the last one is regular.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        cpu_ticks=sum(int(field) for field in fields[11:15]),
        threads=int(fields[17]),
        start_time=int(fields[19]),
    )


def read_all_stats() -> dict[int, ProcessStat]:
    """Read all processes that are alive, by pid."""
    found = (read_stat(int(name)) for name in os.listdir(PROC) if name.isdigit())  # noqa: PTH208 - names are all we need
    return {stat.pid: stat for stat in found if stat is not None and stat.is_alive}


def identify(pid: int) -> ProcessIdentity | None:
    """Give the identity of the process that has this pid now."""
    stat = read_stat(pid)
    return None if stat is None else ProcessIdentity(pid=pid, start_time=stat.start_time, boot_id=boot_id())


def stat_of(identity: ProcessIdentity) -> ProcessStat | None:
    """Read this very process; None when it has ended, whoever has its pid now."""
    stat = read_stat(identity.pid)
    if stat is None or not stat.is_alive or stat.start_time != identity.start_time:
        return None
    return stat if boot_id() == identity.boot_id else None


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether this very process still runs."""
    return stat_of(identity) is not None


def open_pidfd(identity: ProcessIdentity) -> FileIO | None:
    """Open a handle that stays with this very process and becomes readable when it ends; None when it has ended.

    A file, not a bare descriptor: one that nobody takes any more closes itself.
    """
    try:
        handle = os.fdopen(os.pidfd_open(identity.pid), "rb", buffering=0)
    except ProcessLookupError:
        return None
    # Looked at after opening: from here on the handle cannot change hands.
    if is_alive(identity):
        return handle
    handle.close()
    return None


def send_signal(pid: int, start_time: int, number: signal.Signals) -> None:
    """Signal the process with this pid and start time. One that has ended, whoever has its pid now, is left alone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        stat = read_stat(pid)
        if stat is not None and stat.start_time == start_time:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
