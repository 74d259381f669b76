"""What an instance uses, added up over its processes."""

from __future__ import annotations

import os
from pathlib import Path

from cnap_runner.backends.process.freeze import require_live
from cnap_runner.backends.process_launcher.proc import PROC, stat_of
from cnap_runner.backends.process_launcher.tree import instance_processes
from cnap_runner.model.instance import ResourceUsage

_COUNTED = ("RssAnon:", "RssShmem:")


def measure(folder: Path) -> ResourceUsage:
    """Measure a live instance. Raises `InstanceExited`.

    Memory is what cannot be taken back: ``RssAnon`` and ``RssShmem``, pages shared after a fork counted once for each process.
    """
    status = require_live(folder)
    launcher = stat_of(status.launcher)
    processes = instance_processes(folder.name, status.launcher.pid)
    stats = processes if launcher is None else [launcher, *processes]
    return ResourceUsage(
        memory_bytes=sum(_memory_of(stat.pid) for stat in stats),
        memory_limit_bytes=None,
        cpu_seconds=sum(stat.cpu_ticks for stat in stats) / os.sysconf("SC_CLK_TCK"),
        pids=sum(stat.threads for stat in stats),
    )


def _memory_of(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    fields = (line.split() for line in text.splitlines() if line.startswith(_COUNTED))
    return sum(int(kilobytes) << 10 for _, kilobytes, *_ in fields)
