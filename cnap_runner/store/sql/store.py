"""The whole store in a SQL database: all its parts, and what concerns the database itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from anyio import to_thread
from typing_extensions import override

from cnap_runner.store.base import Store
from cnap_runner.store.database import Database
from cnap_runner.store.sql.agents import SqlAgents
from cnap_runner.store.sql.counting import SqlCounting
from cnap_runner.store.sql.holds import SqlHolds
from cnap_runner.store.sql.journal import SqlJournal
from cnap_runner.store.sql.leases import SqlLeases
from cnap_runner.store.sql.ledger import SqlLedger
from cnap_runner.store.sql.lives import SqlLives
from cnap_runner.store.sql.managers import SqlManagers
from cnap_runner.store.sql.runners import SqlRunners
from cnap_runner.store.sql.sessions import SqlSessions
from cnap_runner.store.sql.tasks import SqlTasks
from cnap_runner.store.sql.waiting import SqlWaiting
from cnap_runner.store.transactions import managers
from cnap_runner.store.upgrade import upgrade

BUSY_TIMEOUT = timedelta(seconds=10)
"""Longest wait for the write lock. Transactions take milliseconds; only a stopped process or a dying disk holds it for longer."""


class SqlStore(
    SqlManagers,
    SqlAgents,
    SqlRunners,
    SqlLives,
    SqlHolds,
    SqlLeases,
    SqlLedger,
    SqlSessions,
    SqlWaiting,
    SqlJournal,
    SqlCounting,
    Store,
):
    """The store in one SQLite file, shared by all processes of the install.

    ``is_alive`` arguments are called in the store's own thread. A cancelled call happens whole or not at all. What must outlive a
    power loss (`Database.write`) waits for the disk: agents, reserved starts, prompts about to be sent, results. The rest
    (`Database.write_relaxed`) is about processes and instances that a power loss ends too, and is durable with the next of those.
    """

    def __init__(self, path: Path, *, busy_timeout: timedelta = BUSY_TIMEOUT) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._database = Database(path, busy_timeout=busy_timeout)
        self._tasks = SqlTasks(self._database)

    @override
    async def open(self) -> None:
        await to_thread.run_sync(lambda: upgrade(self._path, busy_timeout=self._busy_timeout))
        await self._database.open()

    @override
    async def aclose(self) -> None:
        await self._database.aclose()

    @override
    async def install_id(self) -> str:
        present = await self._database.read(managers.read_install_id)
        if present is None:
            return await self._database.write(managers.make_install_id)
        return present

    @property
    @override
    def tasks(self) -> SqlTasks:
        return self._tasks
