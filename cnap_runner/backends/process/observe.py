"""What an instance is doing: its record, its launcher's words, and what the kernel says about both processes."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

from cnap_runner.backends.process.folders import load_record, load_status, try_lock
from cnap_runner.backends.process_launcher.proc import boot_id, is_alive, stat_of
from cnap_runner.backends.process_launcher.secret_files import remove_secrets
from cnap_runner.backends.process_launcher.status import LauncherStatus
from cnap_runner.backends.process_launcher.tree import instance_processes, kill_all
from cnap_runner.errors import BackendError
from cnap_runner.model.instance import InstanceRef, InstanceStatus, Observation

EXIT_KILLED = 137
"""The server of a launcher that was killed is killed with it, by the kernel."""
_SWEEP_LIMIT = timedelta(seconds=5)


def observe(folder: Path) -> Observation:
    """Report one instance. Remains of a launcher that was killed are ended first. Raises `InstanceNotFound`, `BackendError`."""
    record = load_record(folder)
    status = load_status(folder)
    # Liveness is judged once: the launcher may write its last word and end at any moment.
    is_live = is_running(status)
    if not is_live and status is not None and status.finished_at is None:
        status = _settle_unless_busy(folder)
        is_live = is_running(status)
    return Observation(
        ref=InstanceRef(instance_id=folder.name, handle=str(folder)),
        install_id=record.install_id,
        agent_id=record.agent_id,
        generation=record.generation,
        spec_hash=record.spec_hash,
        status=_status_of(status, is_live=is_live),
        endpoint=endpoint_of(status) if is_live else None,
        exit_code=None if status is None else status.exit_code,
        started_at=None if status is None else status.started_at,
        finished_at=None if status is None else status.finished_at,
    )


def endpoint_of(status: LauncherStatus | None) -> str | None:
    """Give the base URL of a live instance's server; None until it said where it listens."""
    return None if status is None or status.port is None else f"http://127.0.0.1:{status.port}"


def is_running(status: LauncherStatus | None) -> bool:
    """Whether a launcher is at work, so that the instance is live."""
    return status is not None and status.finished_at is None and is_alive(status.launcher)


def settle(folder: Path) -> LauncherStatus | None:
    """End what is left of an instance whose launcher does not run, remove its secrets, and complete its status.

    Needs the instance's lock. An instance that runs is left alone. Raises `BackendError` when something cannot be ended.
    """
    status = load_status(folder)
    if is_running(status):
        return status
    end_remains(folder)
    # Read again: the launcher may have said its last word between the two looks.
    status = load_status(folder)
    if status is not None and status.finished_at is None:
        status = status.ended(EXIT_KILLED if status.launcher.boot_id == boot_id() else None)
        status.write(folder)
    return status


def end_remains(folder: Path) -> None:
    """Kill what carries the instance's mark and remove its secrets."""
    find = partial(instance_processes, folder.name, None)
    if not kill_all(find, within=_SWEEP_LIMIT, reap=_nothing_to_reap):
        raise BackendError(f"Processes of instance {folder.name} cannot be ended; they hang inside the kernel.")
    remove_secrets(folder)


def _settle_unless_busy(folder: Path) -> LauncherStatus | None:
    """Settle, or leave that to whoever holds the lock."""
    lock = try_lock(folder)
    if lock is None:
        return load_status(folder)
    with lock:
        return settle(folder)


def _status_of(status: LauncherStatus | None, *, is_live: bool) -> InstanceStatus:
    if status is None:
        return InstanceStatus.CREATED
    if not is_live:
        return InstanceStatus.EXITED
    server = None if status.server is None else stat_of(status.server)
    return InstanceStatus.PAUSED if server is not None and server.is_stopped else InstanceStatus.RUNNING


def _nothing_to_reap() -> None:
    """Remains are children of others."""
