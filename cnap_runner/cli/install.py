"""Opening the install a command works on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from cnap_runner.cli.keeper_state import read_state
from cnap_runner.cli.output import note
from cnap_runner.errors import InvalidInput, RunnerError, RunnerNotFound

if TYPE_CHECKING:
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

LEAVING = timedelta(seconds=5)
"""Longest time to find out whether somebody sees to agents that are left warm."""


def is_there(settings: Settings) -> bool:
    """Whether the data folder holds an install. Raises `InvalidInput` where it is no folder."""
    _require_folder(settings)
    return (settings.data_dir / "runner.db").exists()


def require(settings: Settings) -> None:
    """Raise `RunnerNotFound` where there is no install, so that a look at a wrong folder does not make one."""
    if not is_there(settings):
        raise RunnerNotFound(
            f"There are no agents in {settings.data_dir}.",
            hint="Name the folder with --data-dir or CNAP_RUNNER_DATA_DIR; `cnap-runner run` makes the first agent.",
        )


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    must_exist: bool = True,
    is_observer: bool = True,
    is_keeper: bool = False,
) -> AsyncIterator[RunnerManager]:
    """Open the install as one more manager of it.

    Where live agents are found at its end, a keeper is started that sees to them, unless one does already or ``on_shutdown="stop"`` was
    set. An observer leaves what dead managers left to those that drive agents: a look must not start containers. Only the keeper serves
    metrics: other commands would be gone at the next scrape. Logging begins here, with the manager's own redactor.
    """
    is_leaving = settings.on_shutdown == "leave" or "on_shutdown" not in settings.model_fields_set
    if not is_keeper:
        _warn_of_unserved(settings, is_leaving=is_leaving)
    async with _entered(settings, must_exist=must_exist, is_observer=is_observer, is_keeper=is_keeper) as manager:
        try:
            yield manager
        finally:
            if is_leaving and not is_keeper:
                await _leave(manager, settings)


@asynccontextmanager
async def looked_into(settings: Settings) -> AsyncIterator[RunnerManager]:
    """Open the install for a command that only looks: nothing is started, a keeper neither."""
    async with _entered(settings) as manager:
        yield manager


@asynccontextmanager
async def _entered(
    settings: Settings, *, must_exist: bool = True, is_observer: bool = True, is_keeper: bool = False
) -> AsyncIterator[RunnerManager]:
    from cnap_runner.telemetry.logging import configure_logging
    from cnap_runner.telemetry.redaction import Redactor
    from cnap_runner.wiring import RunnerManager

    if must_exist:
        require(settings)
    _require_folder(settings)
    if not is_keeper:
        settings = settings.model_copy(update={"metrics_port": None})
    redactor = Redactor()
    configure_logging(settings.log_level, settings.log_format, redactor)
    async with RunnerManager(settings, is_observer=is_observer, redactor=redactor, must_serve=not is_keeper) as manager:
        yield manager


def _warn_of_unserved(settings: Settings, *, is_leaving: bool) -> None:
    """Say where the metrics that are asked for are not to be had."""
    port = settings.metrics_port
    if port is None:
        return
    keeper = read_state(settings.data_dir)
    if keeper is None:
        why = "the keeper serves them, which this command starts at its end if agents stay live"
        if not is_leaving:
            why = "of the command line only the keeper serves them, and this command starts none"
    elif keeper.settings.get("metrics_port") == port:
        return
    else:
        why = f"the keeper (process {keeper.pid}) was started without it; `cnap-runner keeper --restart` replaces it"
    note(f"warning: metrics are not served at port {port}: {why}.", style="yellow")


async def _leave(manager: RunnerManager, settings: Settings) -> None:
    """Let somebody see to what is left warm."""
    from cnap_runner.aio.shield import shielded
    from cnap_runner.cli.keeping import ensure_keeper

    try:
        async with shielded(LEAVING) as patience:
            await ensure_keeper(manager, settings)
        trouble = f"that took longer than {LEAVING.total_seconds():g} s" if patience.cancelled_caught else None
    except RunnerError as error:
        trouble = error.message
    if trouble:
        note(f"warning: whether anybody stops idle agents is not known: {trouble}", style="yellow")


def _require_folder(settings: Settings) -> None:
    if settings.data_dir.exists() and not settings.data_dir.is_dir():
        raise InvalidInput(
            f"{settings.data_dir} is not a folder.", hint="Name a folder with --data-dir or CNAP_RUNNER_DATA_DIR."
        )
