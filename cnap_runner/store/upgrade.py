"""Bringing a database to this version's schema. Alembic is imported only when there is something to do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from cnap_runner.errors import StoreError, StoreTooNew
from cnap_runner.store import sqlite
from cnap_runner.store.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from alembic.config import Config

_VERSION_TABLE = sa.table("alembic_version", sa.column("version_num"))


def upgrade(path: Path, *, busy_timeout: timedelta) -> None:
    """Make the database if there is none, and migrate it to `SCHEMA_VERSION`: wholly, or not at all. Idempotent.

    Blocks. The caller holds ``install.lock``. Raises `StoreTooNew` for a revision this version does not know (nothing is changed
    then), `StoreBusy`, and `StoreError` for a file that cannot be opened.
    """
    sqlite.create_file(path)
    with sqlite.translated(), _connect(path, busy_timeout) as connection, connection.begin():
        if stored_version(connection) == SCHEMA_VERSION:
            return
        _migrate(connection, path)
        if sqlite.has_orphans(connection):
            raise StoreError(f"{path}: rows refer to others that are not there.", hint="Restore it from a copy.")


def _connect(path: Path, busy_timeout: timedelta) -> sa.Connection:
    return sqlite.connect(path, "write", busy_timeout=busy_timeout, foreign_keys=False)


def stored_version(connection: sa.Connection) -> str | None:
    """The revision the database is at; None for one without tables."""
    if not sa.inspect(connection).has_table(_VERSION_TABLE.name):
        return None
    return connection.execute(sa.select(_VERSION_TABLE.c.version_num)).scalar()


def _migrate(connection: sa.Connection, path: Path) -> None:
    from alembic import command  # noqa: PLC0415 - half a second that a database of this version need not pay
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    present = stored_version(connection)
    if present is not None and present not in known:
        raise StoreTooNew(f"{path} has schema {present}; this version knows schemas up to {SCHEMA_VERSION}.")
    command.upgrade(config, SCHEMA_VERSION)


def alembic_config(connection: sa.Connection) -> Config:
    """Alembic's configuration, from the package itself; there is no ini file."""
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "cnap_runner.store:migrations")
    config.set_main_option("path_separator", "os")
    return config
