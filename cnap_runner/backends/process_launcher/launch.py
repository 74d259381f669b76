"""From the manager's call to a detached launcher that runs one OpenCode server to its end."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cnap_runner.backends.process_launcher import kernel
from cnap_runner.backends.process_launcher.output import OutputLog
from cnap_runner.backends.process_launcher.proc import identify
from cnap_runner.backends.process_launcher.secret_files import BadArchive, read_password, remove_secrets, unpack_secrets
from cnap_runner.backends.process_launcher.server import LISTEN_ARGUMENTS, PASSWORD_VARIABLE
from cnap_runner.backends.process_launcher.status import LauncherStatus
from cnap_runner.backends.process_launcher.supervisor import Supervisor

EXIT_REFUSED = 78
"""``EX_CONFIG``: the launcher was given something no server can be started with."""
EXIT_CANNOT_EXECUTE = 126


def main(argv: Sequence[str]) -> None:
    """Detach, tell the manager by closing the standard streams that this run can be found, and stay until it is over.

    The whole archive is read first: a manager that is killed in the middle of writing it leaves nothing behind.
    """
    order = _parse(argv)
    archive = sys.stdin.buffer.read()
    if len(archive) != order.archive_bytes:
        sys.exit(EXIT_REFUSED)
    if os.fork() != 0:
        os._exit(0)
    kernel.become_reaper()
    kernel.allow_no_core_dumps()
    status = _introduce(order.folder)
    _let_go_of_streams()
    _run(order, archive, status)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="process_launcher")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--memory", type=Path, default=None, help="folder on a memory file system")
    parser.add_argument("--archive-bytes", type=int, required=True)
    return parser.parse_args(argv)


def _introduce(folder: Path) -> LauncherStatus:
    """Write the first status: from here on any manager finds this run."""
    me = identify(os.getpid())
    if me is None:
        raise OSError("/proc does not show this process")
    status = LauncherStatus(launcher=me, started_at=datetime.now(UTC))
    status.write(folder)
    return status


def _let_go_of_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _run(order: argparse.Namespace, archive: bytes, status: LauncherStatus) -> None:
    log = OutputLog(order.folder)
    try:
        place = unpack_secrets(order.folder, archive, memory=order.memory)
        environment = {**os.environ, PASSWORD_VARIABLE: read_password(order.folder)}
        supervisor = Supervisor(order.folder, status, log)
        try:
            supervisor.run([str(order.binary), *LISTEN_ARGUMENTS], cwd=order.workspace, environment=environment)
        finally:
            # Gone already, unless somebody removed the instance's folder, and with it the link that leads here.
            shutil.rmtree(place, ignore_errors=True)
    except (BadArchive, OSError) as error:
        # What is written here is of our making or the kernel's; a value from the archive is in neither.
        log.write("stderr", f"cnap-runner: {error}".encode())
        remove_secrets(order.folder)
        code = EXIT_REFUSED if isinstance(error, BadArchive) else EXIT_CANNOT_EXECUTE
        if order.folder.is_dir():
            status.ended(code).write(order.folder)
