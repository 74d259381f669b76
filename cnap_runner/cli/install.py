"""Opening the install a command works on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

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

    Where agents are left warm at its end (``on_shutdown="leave"``), a keeper is started that sees to them, unless one does already. An
    observer leaves what dead managers left to those that drive agents: a look must not start containers. Only the keeper serves metrics:
    other commands would be gone at the next scrape. Logging begins here, with the manager's own redactor.
    """
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
        try:
            yield manager
        finally:
            if settings.on_shutdown == "leave" and not is_keeper:
                await _leave(manager, settings)


async def _leave(manager: RunnerManager, settings: Settings) -> None:
    """Let somebody see to what is left warm."""
    from cnap_runner.aio.shield import shielded
    from cnap_runner.cli.keeping import ensure_keeper

    try:
        async with shielded(LEAVING):
            await ensure_keeper(manager, settings)
    except RunnerError as error:
        note(f"warning: whether anybody stops idle agents is not known: {error.message}", style="yellow")


def _require_folder(settings: Settings) -> None:
    if settings.data_dir.exists() and not settings.data_dir.is_dir():
        raise InvalidInput(
            f"{settings.data_dir} is not a folder.", hint="Name a folder with --data-dir or CNAP_RUNNER_DATA_DIR."
        )
