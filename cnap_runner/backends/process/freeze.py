"""Pausing and resuming all processes of an instance but its launcher, which goes on reaping and listening."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from cnap_runner.backends.process.folders import load_status, unreadable
from cnap_runner.backends.process.observe import is_running
from cnap_runner.backends.process_launcher.files import PAUSE_FILE, write_json
from cnap_runner.backends.process_launcher.proc import ProcessStat, stat_of
from cnap_runner.backends.process_launcher.status import LauncherStatus
from cnap_runner.backends.process_launcher.tree import freeze_all, instance_processes, thaw_all
from cnap_runner.errors import BackendError, InstanceExited

_LIMIT = timedelta(seconds=5)


def require_live(folder: Path) -> LauncherStatus:
    """Give the present run of a live instance; raises `InstanceExited`."""
    status = load_status(folder)
    if status is None or not is_running(status):
        raise InstanceExited(f"Instance {folder.name} does not run.")
    return status


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """What is remembered of the pauses of the present run, in ``pause.json``."""

    count: int = 0
    """How often it was paused."""
    is_paused: bool = False
    stopped_before: tuple[tuple[int, int], ...] = ()
    """Pid and start time of what the agent itself had stopped; it must not run when the instance is resumed."""


def pause(folder: Path) -> None:
    """Freeze an instance. Needs its lock. Raises `InstanceExited`, `BackendError` when it does not come to a standstill."""
    status = require_live(folder)
    if is_frozen(status):
        return
    find = partial(_processes, folder, status)
    stopped = tuple((process.pid, process.start_time) for process in find() if process.is_stopped)
    if not freeze_all(find, within=_LIMIT):
        thaw_all(find(), but=frozenset(stopped))
        raise BackendError(
            f"Instance {folder.name} could not be paused: it starts processes faster than they are stopped."
        )
    count = read_pause(folder).count + 1
    _write(folder, PauseRecord(count=count, is_paused=True, stopped_before=stopped))


def resume(folder: Path) -> None:
    """Thaw an instance. Needs its lock. Raises `InstanceExited`."""
    status = require_live(folder)
    if not is_frozen(status):
        return
    record = read_pause(folder)
    thaw_all(_processes(folder, status), but=frozenset(record.stopped_before))
    _write(folder, replace(record, is_paused=False, stopped_before=()))


def is_frozen(status: LauncherStatus) -> bool:
    """Whether the server stands still."""
    server = None if status.server is None else stat_of(status.server)
    return server is not None and server.is_stopped


def read_pause(folder: Path) -> PauseRecord:
    """Read what is remembered of pauses. Raises `BackendError`."""
    try:
        data = json.loads((folder / PAUSE_FILE).read_text(encoding="utf-8"))
        stopped = tuple((pid, start_time) for pid, start_time in data["stopped_before"])
        return PauseRecord(count=data["count"], is_paused=data["is_paused"], stopped_before=stopped)
    except FileNotFoundError:
        return PauseRecord()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(folder, error) from error


def _write(folder: Path, record: PauseRecord) -> None:
    write_json(folder / PAUSE_FILE, asdict(record))


def _processes(folder: Path, status: LauncherStatus) -> list[ProcessStat]:
    return instance_processes(folder.name, status.launcher.pid)
