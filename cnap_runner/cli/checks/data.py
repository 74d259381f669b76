"""What an install has on the disk: its folder, its database, its secrets, and who keeps it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from cnap_runner.cli.checks.finding import Finding, State, failed_by
from cnap_runner.errors import RunnerError

if TYPE_CHECKING:
    from cnap_runner.settings import Settings

DISK_FAIL_MB, DISK_WARN_MB = 200, 2048
"""A fresh agent's folders take some 50 MB; what agents check out and install soon takes more."""


async def check_data_folder(settings: Settings) -> list[Finding]:
    """Whether the data folder can be written, and the room that is left."""
    return await anyio.to_thread.run_sync(lambda: list(_data_folder(settings.data_dir)))


def _data_folder(data_dir: Path) -> Iterator[Finding]:
    present = next(folder for folder in (data_dir, *data_dir.absolute().parents) if os.path.lexists(folder))
    if (why := _why_not_writable(present)) is not None:
        yield Finding(
            "data folder",
            State.FAIL,
            f"{data_dir} cannot be written by this user: {present}: {why}.",
            "Give this user the right to, or set CNAP_RUNNER_DATA_DIR to another folder.",
        )
        return
    yield Finding("data folder", State.OK, str(data_dir) + ("" if present == data_dir else " (made at the first run)"))
    free = shutil.disk_usage(present).free >> 20
    state = State.FAIL if free < DISK_FAIL_MB else State.WARN if free < DISK_WARN_MB else State.OK
    hint = None if state is State.OK else "Free some space, or move the data folder with CNAP_RUNNER_DATA_DIR."
    yield Finding("disk", state, f"{free} MB are free", hint)


def _why_not_writable(folder: Path) -> str | None:
    """Tell why nothing can be made in a folder. Rights alone do not say: root has them on file systems that take nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder):  # it has no name: nothing is seen of it
            return None
    except OSError as error:
        return error.strerror or str(error)


async def check_database(settings: Settings) -> list[Finding]:
    """Whether the database is whole and of a schema this version knows."""
    path = settings.data_dir / "runner.db"
    if not path.exists():
        return [Finding("database", State.OK, "none yet (made at the first run)")]
    return await anyio.to_thread.run_sync(_check_database, path)


def _check_database(path: Path) -> list[Finding]:
    from cnap_runner.store.schema import SCHEMA_VERSION

    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except sqlite3.Error as error:
        state, version = str(error), None
    if state != "ok":
        return [Finding("database", State.FAIL, f"{path.name} is damaged: {state}", f"Restore {path} from a copy.")]
    if version > SCHEMA_VERSION:
        hint = "Upgrade cnap-runner, or use another CNAP_RUNNER_DATA_DIR."
        return [
            Finding("database", State.FAIL, f"{path.name} has schema {version}, newer than {SCHEMA_VERSION}.", hint)
        ]
    return [
        Finding("database", State.OK, f"schema {version}" + ("" if version == SCHEMA_VERSION else ", to be migrated"))
    ]


async def check_secrets(settings: Settings) -> list[Finding]:
    """Whether the install's key is its owner's alone, and the vault can be opened with it."""
    return await anyio.to_thread.run_sync(lambda: list(_secrets(settings)))


def _secrets(settings: Settings) -> Iterator[Finding]:
    from cnap_runner.wiring import make_secrets

    key = settings.data_dir / "install.key"
    try:
        if key.stat().st_mode & 0o077:
            why = f"{key} can be read by others: it opens the vault and every agent's server."
            yield Finding("secrets", State.WARN, why, f"chmod 600 {key}")
        vault = make_secrets(settings, key.read_bytes()).vault
        count = len(vault.names() or ())
    except FileNotFoundError:
        return  # no install yet
    except OSError as error:
        yield Finding("secrets", State.FAIL, f"{key} cannot be read: {error.strerror}.")
    except RunnerError as error:
        yield failed_by("secrets", error)
    else:
        if count:
            yield Finding("secrets", State.OK, f"{count} in {vault.describe()}")


async def check_keeper(settings: Settings) -> list[Finding]:
    """Who sees to idle agents, and whether it does by the settings of this call. Nothing is said where no keeper process lives."""
    from cnap_runner.cli.keeper_state import in_words, read_state, told

    state = await anyio.to_thread.run_sync(read_state, settings.data_dir)
    if state is None:
        return []
    since = datetime.fromisoformat(state.since).astimezone()
    works_by = ", ".join(in_words(name, value) for name, value in state.settings.items())
    says = f"process {state.pid} since {since:%Y-%m-%d %H:%M:%S}: {works_by}"
    here = told(settings)
    if here["metrics_port"] is None:  # that nobody asks for metrics here is no wish that there be none
        del here["metrics_port"]
    differing = [in_words(name, value) for name, value in here.items() if state.settings.get(name) != value]
    if not differing:
        return [Finding("keeper", State.OK, says)]
    hint = f"Here: {', '.join(differing)}. `cnap-runner keeper --restart` replaces it by one with these."
    return [Finding("keeper", State.WARN, says, hint)]
