"""Ending an instance: by its launcher where that works, from here where it does not."""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from cnap_runner.backends.process.folders import load_status
from cnap_runner.backends.process.observe import is_running
from cnap_runner.backends.process_launcher.files import STOP_FILE, write_json
from cnap_runner.backends.process_launcher.proc import open_pidfd, send_signal
from cnap_runner.backends.process_launcher.status import LauncherStatus

_LAUNCHER_GRACE = timedelta(seconds=5)
"""What the launcher gets beyond its server's grace to end the rest and to write its status, before it is killed itself."""


def ask_to_end(folder: Path, grace: timedelta) -> LauncherStatus | None:
    """Tell the launcher to end its instance, and how long to be polite; None when none runs. Needs the instance's lock."""
    status = load_status(folder)
    if status is None or not is_running(status):
        return None
    write_json(folder / STOP_FILE, {"grace_seconds": max(0.0, grace.total_seconds())})
    send_signal(status.launcher.pid, status.launcher.start_time, signal.SIGTERM)
    return status


async def await_end(status: LauncherStatus, grace: timedelta) -> None:
    """Wait for a launcher's end; when it takes too long it is killed, and the kernel kills its server."""
    pidfd = await run_sync(open_pidfd, status.launcher)
    if pidfd is None:
        return
    with pidfd:
        with anyio.move_on_after((grace + _LAUNCHER_GRACE).total_seconds()):
            await anyio.wait_readable(pidfd)
            return
        signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        await anyio.wait_readable(pidfd)
