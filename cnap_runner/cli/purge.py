"""``cnap-runner purge``: an install's end."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cnap_runner.cli import install, keeping
from cnap_runner.cli.asking import confirm
from cnap_runner.cli.options import Yes, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import ConflictError, InvalidInput, LeaseLost, RunnerError, StoreBusy, StoreError, StoreTooNew
from cnap_runner.runner.workspaces.removal import remove

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings

OUR_FOLDERS = ("agents", "workspace", "processes", "managers")
OUR_FILES = (
    "runner.db-wal",
    "runner.db-shm",
    "install.key",
    "install.key.new",
    "install.id.new",
    "install.lock",
    "keeper.log",
    "secrets.vault",
    "secrets.new",
    "secrets.lock",
)
"""What an install makes in its data folder, besides the database and the id, which go last. A folder ``configs`` is the user's own."""

KEEPER_STARTS_SECONDS = 5
"""How long a keeper that was started a moment ago may take until it can be told to end."""


def purge(ctx: typer.Context, is_sure: Yes = False) -> None:
    """Remove everything of this install: agents, containers, networks, workspaces, sessions, the database."""
    settings = settings_of(ctx)
    if not (install.is_there(settings) or (settings.data_dir / "install.id").exists()):
        note(f"There is nothing to purge in {settings.data_dir}.")
        return
    confirm(f"Remove all agents of {settings.data_dir} with all their files, for ever?", is_sure=is_sure)
    run_async(partial(_purge, settings))
    note(f"Everything of the install in {settings.data_dir} is removed.")


async def _purge(settings: Settings, _: Interrupts) -> None:
    import anyio.to_thread

    await _be_alone(settings)
    try:
        async with install.opened(settings, must_exist=False) as manager:
            await manager.purge()
    except (StoreError, InvalidInput) as error:
        await _purge_damaged(settings, error)
    # One that was being started a moment ago may have come meanwhile.
    await _be_alone(settings)
    # From here on nothing is half done: an install without a database and an id is none.
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(_remove_files, settings.data_dir)


async def _purge_damaged(settings: Settings, error: RunnerError) -> None:
    """Remove an install's instances and networks without its database and key, by its id alone.

    Raises ``error``, what its opening failed with, where the id is not known, or the database is not damaged but somebody else's or too new.
    """
    import anyio.to_thread

    from cnap_runner import wiring

    install_id = await anyio.to_thread.run_sync(wiring.read_install_id, settings.data_dir)
    if install_id is None or isinstance(error, StoreBusy | StoreTooNew | LeaseLost):
        raise error
    note(f"{error.message} Everything is removed without it.", style="yellow")
    backend = await anyio.to_thread.run_sync(wiring.make_backend, settings)
    try:
        for observation in await backend.list_instances(install_id):
            await backend.remove(observation.ref, grace=settings.stop_timeout)
        await anyio.to_thread.run_sync(wiring.make_barrier(settings, install_id).remove)
        await backend.purge(install_id)
    finally:
        with anyio.CancelScope(shield=True):
            await backend.aclose()


async def _be_alone(settings: Settings) -> None:
    """End the keeper, and wait for one that is being started; refuse while another process works on the install."""
    import anyio

    if (settings.data_dir / keeping.LOG).exists():
        with anyio.move_on_after(KEEPER_STARTS_SECONDS):
            while True:
                await keeping.end_keeper(settings)
                if not _is_busy(settings):
                    return
                await anyio.sleep(0.1)
    await keeping.end_keeper(settings)
    _require_alone(settings)


def _require_alone(settings: Settings) -> None:
    """Refuse while another process works on the install: its database must not vanish under it."""
    if _is_busy(settings):
        raise ConflictError(
            f"Another process works on {settings.data_dir}.", hint="End it first; `cnap-runner ps` shows what runs."
        )


def _is_busy(settings: Settings) -> bool:
    from cnap_runner.store.presence import is_alive

    folder = settings.data_dir / "managers"
    return any(is_alive(settings.data_dir, path.stem) for path in folder.glob("*.lock"))


def _remove_files(data_dir: Path) -> None:
    try:
        for name in OUR_FOLDERS:
            remove(data_dir / name)
        for name in (*OUR_FILES, "runner.db", "install.id"):
            (data_dir / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunnerError(
            f"{error.filename or data_dir} could not be removed: {error.strerror}.",
            hint="Remove it as its owner or root.",
        ) from error
    with suppress(OSError):  # somebody else's files are in it, or it is a mount
        data_dir.rmdir()
