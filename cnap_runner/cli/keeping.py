"""The keeper behind the command line: a process of its own that sees to agents left warm, and ends with the last of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.keeper_state import STATE, read_state, write_state
from cnap_runner.cli.options import settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import ConflictError, InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

LOG = "keeper.log"
LOG_BYTES = 1 << 20
"""Size at which the log is begun anew when the next keeper starts."""
PID = Path("managers") / "keeper.pid"
LOOK_SECONDS = 0.05


def keeper(
    ctx: typer.Context,
    is_restarting: Annotated[
        bool, typer.Option("--restart", help="Replace the one that lives by one with the settings of this call.")
    ] = False,
    is_ending: Annotated[
        bool, typer.Option("--stop", help="End the one that lives. Agents stay as they are until another one comes.")
    ] = False,
) -> None:
    """See to agents that were left warm: freeze and stop the idle ones, serve metrics. Commands that leave live agents start it by themselves.

    Stays until the last live agent is stopped, and ends at once where another one lives. It works by the settings it was started with.
    """
    if is_restarting and is_ending:
        raise InvalidInput("Give --restart or --stop: one of the two, not both.")
    settings = settings_of(ctx, keep=True)
    if is_restarting or is_ending:
        install.require(settings)
        run_async(partial(_replace, settings, is_restarting))
    else:
        run_async(partial(_keep, settings))


async def _keep(settings: Settings, _: Interrupts) -> None:
    async with install.opened(settings, is_observer=False, is_keeper=True) as manager:
        path, state = settings.data_dir / PID, settings.data_dir / STATE
        if not await manager.claim_keeper():
            lives = read_state(settings.data_dir)
            who = f" (process {lives.pid})" if lives else ""
            note(f"Another keeper lives already{who}; `cnap-runner keeper --restart` replaces it.")
            return
        manager_id = manager.parts.install.manager_id
        try:
            path.write_text(f"{manager_id} {os.getpid()}\n", encoding="ascii")
            write_state(settings, manager_id)
            await manager.keep()
        finally:
            for own in (state, path):
                _unlink_of(own, manager_id)


def _unlink_of(path: Path, manager_id: str) -> None:
    """Remove a file in which a keeper says that it is the keeper, unless another one says so by now."""
    with suppress(OSError):
        if manager_id in path.read_text(encoding="utf-8"):
            path.unlink()


async def _replace(settings: Settings, is_restarting: bool, _: Interrupts) -> None:
    lived = (settings.data_dir / PID).exists()
    await end_keeper(settings)
    if not is_restarting:
        note("the keeper is ended" if lived else "no keeper lives")
        return
    async with install.looked_into(settings) as manager:
        if await manager.needs_keeper():
            spawn(settings)
            note("a new keeper is started")
        else:
            note("no agent is live, so none is needed; the next command that leaves one warm starts it")


async def ensure_keeper(manager: RunnerManager, settings: Settings) -> None:
    """Start a keeper where live agents are left and none sees to them."""
    if await manager.needs_keeper():
        spawn(settings)


def spawn(settings: Settings) -> None:
    """Start a keeper in a session of its own, with no stream of ours; its errors go to ``keeper.log``. Does not wait for it."""
    own = ["--data-dir", str(settings.data_dir), "--backend", settings.backend]
    path = settings.data_dir / LOG
    try:
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            subprocess.Popen(
                [sys.executable, "-P", "-m", "cnap_runner", *own, "keeper"],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
    except OSError as error:
        note(f"warning: nobody will stop idle agents, for no keeper could be started: {error}.", style="yellow")


async def end_keeper(settings: Settings) -> None:
    """End the install's keeper, if one lives, and wait until it is gone; its agents stay as they are. Raises `ConflictError`."""
    import anyio

    from cnap_runner.store.presence import is_alive

    try:
        manager_id, number = (settings.data_dir / PID).read_text(encoding="ascii").split()
        pid = int(number)
    except (OSError, ValueError):
        return
    if not is_alive(settings.data_dir, manager_id):
        return
    _terminate(pid, settings.data_dir)
    with anyio.move_on_after((settings.shutdown_timeout * 2).total_seconds()):
        while is_alive(settings.data_dir, manager_id):
            await anyio.sleep(LOOK_SECONDS)
        return
    raise ConflictError(f"The keeper of {settings.data_dir}, process {pid}, does not end.", hint=f"kill -9 {pid}")


def _terminate(pid: int, data_dir: Path) -> None:
    """Ask a keeper that lives to end. Raises `ConflictError` where it is not this user's, or in another container: its number is a
    stranger's here, or nobody's."""
    if not _is_keeper(pid):
        raise ConflictError(
            f"The keeper of {data_dir} lives, and process {pid} of this machine is not it.",
            hint="It may run in a container, or this command does: end it from where it was started.",
        )
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ConflictError(
            f"The keeper of {data_dir}, process {pid}, is another user's.", hint="End it as that user or root."
        ) from None


def _is_keeper(pid: int) -> bool:
    """Whether a process is a keeper by what it was started as; where that is not told, it is taken for one."""
    processes = Path("/proc")
    if not (processes / "self" / "cmdline").exists():
        return True
    try:
        return b"keeper" in (processes / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
