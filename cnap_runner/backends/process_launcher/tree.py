"""All processes of one instance: what descends from its launcher, and what carries its mark.

The launcher is the reaper of its descendants, so one that daemonises stays its descendant. The mark is a variable of the
environment: it finds commands that a manager started beside the launcher, and what a launcher leaves behind that was killed itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import timedelta

from cnap_runner.backends.process_launcher.proc import PROC, ProcessStat, read_all_stats, send_signal

MARK = "CNAP_RUNNER_INSTANCE"
"""Variable that every process of an instance inherits; its value is the instance's id."""
_PASS_SECONDS = 0.01


def instance_processes(instance_id: str, launcher_pid: int | None) -> list[ProcessStat]:
    """Find all live processes of an instance but its launcher, parents before their children."""
    stats = read_all_stats()
    roots = set(marked_pids(instance_id, stats))
    if launcher_pid is not None:
        roots.add(launcher_pid)
    family = _with_descendants(roots, stats)
    return [stats[pid] for pid in family if pid in stats and pid not in {launcher_pid, os.getpid()}]


def marked_pids(instance_id: str, stats: Iterable[int]) -> list[int]:
    """Find this user's processes that carry the instance's mark."""
    mark = f"{MARK}={instance_id}".encode()
    return [pid for pid in stats if mark in _environment(pid)]


def kill_all(find: Callable[[], list[ProcessStat]], *, within: timedelta, reap: Callable[[], object]) -> bool:
    """Kill what ``find`` finds until it finds nothing. Tell whether that came to an end in time."""
    deadline = time.monotonic() + within.total_seconds()
    while processes := find():
        _signal_all(processes, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            return False
        time.sleep(_PASS_SECONDS)
    return True


def freeze_all(find: Callable[[], list[ProcessStat]], *, within: timedelta) -> bool:
    """Stop what ``find`` finds, parents first so that none sees its child stop, until all stand still or time is over."""
    deadline = time.monotonic() + within.total_seconds()
    while moving := [process for process in find() if not process.is_stopped]:
        _signal_all(moving, signal.SIGSTOP)
        if time.monotonic() > deadline:
            return False
        time.sleep(_PASS_SECONDS)
    return True


def thaw_all(processes: list[ProcessStat], *, but: frozenset[tuple[int, int]] = frozenset()) -> None:
    """Continue stopped processes, children first, except those named by pid and start time."""
    stopped = [p for p in processes if p.is_stopped and (p.pid, p.start_time) not in but]
    _signal_all(reversed(stopped), signal.SIGCONT)


def _signal_all(processes: Iterable[ProcessStat], number: signal.Signals) -> None:
    for process in processes:
        send_signal(process.pid, process.start_time, number)


def _with_descendants(roots: Iterable[int], stats: dict[int, ProcessStat]) -> list[int]:
    """Walk down from the roots, breadth first."""
    children = defaultdict(list)
    for stat in stats.values():
        children[stat.parent].append(stat.pid)
    # A root below another root is reached through it, so that parents come before children.
    order = [root for root in roots if root not in stats or stats[root].parent not in roots]
    seen = set(order)
    for pid in order:
        fresh = [child for child in children[pid] if child not in seen]
        seen.update(fresh)
        order.extend(fresh)
    return order


def _environment(pid: int) -> list[bytes]:
    """Read the variables a process was started with; empty for those of other users."""
    folder = PROC / str(pid)
    try:
        if folder.stat().st_uid != os.getuid():
            return []
        return (folder / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
