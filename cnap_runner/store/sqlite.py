"""SQLite as the database: the only module of the store that knows which one it is.

Another database brings a module with the same four things: a connection for writing whose transactions exclude each other from
their first statement on (PostgreSQL: an advisory lock taken when the transaction begins), one for reading, a durability that can be
chosen for each transaction (``synchronous_commit``), and a translation of its errors.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast

import sqlalchemy as sa
from sqlalchemy import event

from cnap_runner.errors import StoreBusy, StoreError

Mode = Literal["read", "write"]

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NO_SPACE = sqlite3.SQLITE_FULL


def connect(path: Path, mode: Mode, *, busy_timeout: timedelta, foreign_keys: bool = True) -> sa.Connection:
    """Open one connection; it belongs to the thread that calls this.

    A transaction of a ``write`` connection holds the write lock from its beginning; one of a ``read`` connection sees one state of the
    database and waits for nobody. Migrations turn ``foreign_keys`` off, so that a table can be rebuilt without its rows' children
    being deleted.
    """
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    pragmas = {
        "busy_timeout": int(busy_timeout / timedelta(milliseconds=1)),
        "foreign_keys": int(foreign_keys),
        "journal_mode": "WAL",
        "synchronous": "FULL",
    }

    def prepare(raw: sqlite3.Connection, _: object) -> None:
        # Python's own transaction control would begin only at the first write; ours begins when told to.
        raw.isolation_level = None
        for name, value in pragmas.items():
            raw.execute(f"PRAGMA {name} = {value}")

    def begin(connection: sa.Connection) -> None:
        _raw(connection).execute("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine.connect()


def create_file(path: Path) -> None:
    """Make an empty database, readable by its owner alone, with its folder. One that is there stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}.") from error


def set_durable(connection: sa.Connection, *, durable: bool) -> None:
    """Choose whether the next commits survive a power loss at once, or with the next durable commit of anybody. Not in a transaction.

    Whichever it is, what was committed survives the death of the process, and a power loss never tears or reorders commits.
    """
    _raw(connection).execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")


def has_orphans(connection: sa.Connection) -> bool:
    """Whether rows refer to others that are not there, as a migration, which works without foreign keys, may have left them."""
    return connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None


def _raw(connection: sa.Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.driver_connection)


@contextmanager
def translated() -> Iterator[None]:
    """Say in our words what SQLite says; the statement and its values are left out."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        raise _translate(error) from error


def _translate(error: sa.exc.DBAPIError | sqlite3.Error) -> StoreError:
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return StoreBusy("Another process holds the database for too long.", hint="Try again.")
    if code == _NO_SPACE:
        return StoreError("The database cannot be written: the disk is full.", hint="Free some space.")
    return StoreError(f"The database failed: {cause}.")
