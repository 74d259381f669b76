"""Starting the launcher of an instance."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cnap_runner.backends import process_launcher
from cnap_runner.backends.process.environment import find_memory, instance_environment
from cnap_runner.backends.process.folders import load_record, load_status
from cnap_runner.backends.process.observe import is_running, settle
from cnap_runner.backends.process_launcher.files import PAUSE_FILE, STOP_FILE
from cnap_runner.backends.process_launcher.status import LauncherStatus
from cnap_runner.errors import EngineUnavailable, InstanceExited, InstanceNotFound, InstanceStartFailed

_LAUNCHER = Path(process_launcher.__file__).with_name("__main__.py")
_LAST_WORDS = 500


def require_binary(binary: Path) -> None:
    """Raise `EngineUnavailable` where OpenCode cannot be executed."""
    if not os.access(binary, os.X_OK) or not binary.is_file():
        raise EngineUnavailable(
            f"There is no OpenCode program at {binary}, or this user may not execute it.",
            hint="`cnap-runner doctor` tells where it is looked for.",
        )


def spawn(folder: Path, binary: Path, secrets: bytes, manager: Mapping[str, str], /) -> LauncherStatus:
    """Start an instance's launcher, unless one runs, and hand it the secrets. Blocks for about a tenth of a second.

    Needs the instance's lock. Returns once any process can find the run. Raises `InstanceStartFailed`, `EngineUnavailable`.
    """
    require_binary(binary)
    status = settle(folder)
    if status is not None and status.finished_at is None:
        return status
    for name in (STOP_FILE, PAUSE_FILE):
        (folder / name).unlink(missing_ok=True)
    before = status
    words = _call(folder, binary, secrets=secrets, manager=manager)
    status = load_status(folder)
    if status is None or (before is not None and status.launcher == before.launcher):
        raise InstanceStartFailed(f"The launcher of instance {folder.name} could not be started. {words}".rstrip())
    return status


def still_starting(folder: Path, started: LauncherStatus) -> LauncherStatus:
    """Read how far a start is. Raises `InstanceExited` when it is over."""
    is_live = is_running(started)
    status = load_status(folder) if folder.is_dir() else None
    if status is None:
        raise InstanceNotFound(f"Instance {folder.name} was removed while it started.")
    if status.launcher == started.launcher and is_live and status.finished_at is None:
        return status
    code = "" if status.exit_code is None else f" with exit code {status.exit_code}"
    raise InstanceExited(f"Instance {folder.name} ended at once{code}.")


def _call(folder: Path, binary: Path, *, secrets: bytes, manager: Mapping[str, str]) -> str:
    """Call the launcher, which detaches; give what it said before that."""
    record = load_record(folder)
    memory = find_memory(manager)
    argv = [sys.executable, "-I", "-S", str(_LAUNCHER), str(folder), "--binary", str(binary)]
    argv += ["--workspace", record.layout.workspace, "--archive-bytes", str(len(secrets))]
    argv += ["--memory", str(memory)] if memory is not None else []
    try:
        # It ends when the detached launcher has closed the streams: the status is written by then.
        done = subprocess.run(
            argv,
            input=secrets,
            capture_output=True,
            check=False,
            cwd="/",
            env=instance_environment(folder.name, record.layout, wanted=record.environment, manager=manager),
            start_new_session=True,
        )
    except OSError as error:
        raise InstanceStartFailed(f"The launcher cannot be executed: {error.strerror or error}.") from error
    return done.stderr.decode(errors="replace").strip()[-_LAST_WORDS:]
