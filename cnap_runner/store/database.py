"""Transactions as plain functions, each run whole in a thread: one for writing, one for reading.

Two reasons (ADR on the store): a transaction that never returns to the event loop cannot hold the write lock while the loop is busy
with something else, and it costs one change of threads instead of four for each statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from cnap_runner.errors import StoreError
from cnap_runner.store import sqlite

P = ParamSpec("P")
T = TypeVar("T")


class _Worker:
    """One thread with one connection. What is asked of it happens in the order of asking, cancelled callers' included."""

    def __init__(self, mode: sqlite.Mode) -> None:
        self._mode: sqlite.Mode = mode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"cnap-store-{mode}")
        self._connection: sa.Connection | None = None
        self._durable = True

    async def open(self, path: Path, busy_timeout: timedelta) -> None:
        await self._call(partial(self._open, path, busy_timeout))

    def _open(self, path: Path, busy_timeout: timedelta) -> None:
        self._connection = sqlite.connect(path, self._mode, busy_timeout=busy_timeout)

    async def run(self, transaction: Callable[[sa.Connection], T], *, durable: bool = True) -> T:
        return await self._call(partial(self._run, transaction, durable))

    def _run(self, transaction: Callable[[sa.Connection], T], durable: bool) -> T:  # noqa: FBT001
        if self._connection is None:
            raise StoreError("The store is not open.")
        if durable is not self._durable:
            sqlite.set_durable(self._connection, durable=durable)
            self._durable = durable
        with self._connection.begin():
            return transaction(self._connection)

    async def _call(self, function: Callable[[], T]) -> T:
        with sqlite.translated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def run_blocking(self, transaction: Callable[[sa.Connection], T]) -> T:
        # Its own thread does it, and needs no event loop for that: it may be waited for from anywhere.
        with sqlite.translated():
            try:
                future = self._thread.submit(self._run, transaction, durable=True)
            except RuntimeError as error:  # the thread was ended meanwhile
                raise StoreError("The store is not open.") from error
            return future.result()

    async def aclose(self) -> None:
        await self._call(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Database:
    """The connections of one store.

    A call that is cancelled happens whole or not at all; which of the two is not told. Later calls see it either way, because they
    queue up behind it.
    """

    def __init__(self, path: Path, *, busy_timeout: timedelta) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._writer: _Worker | None = None
        self._reader: _Worker | None = None

    async def open(self) -> None:
        """Connect. The file and its tables are there."""
        self._writer, self._reader = _Worker("write"), _Worker("read")
        await self._writer.open(self._path, self._busy_timeout)
        await self._reader.open(self._path, self._busy_timeout)

    async def aclose(self) -> None:
        """Disconnect. Idempotent."""
        workers, self._writer, self._reader = (self._writer, self._reader), None, None
        for worker in workers:
            if worker is not None:
                await worker.aclose()

    async def read(
        self, transaction: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction that only reads."""
        return await self._opened(self._reader).run(lambda tx: transaction(tx, *args, **kwargs))

    def read_blocking(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run a transaction that only reads, and block for it. From any thread."""
        return self._opened(self._reader).run_blocking(transaction)

    async def write(
        self, transaction: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction under the write lock; once it returned, a power loss cannot undo it."""
        return await self._opened(self._writer).run(lambda tx: transaction(tx, *args, **kwargs))

    async def write_relaxed(
        self, transaction: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction under the write lock, durable with the next call of `write` by anybody.

        For what a power loss, which ends managers and instances alike, makes void anyway. Saves the wait for the disk.
        """
        return await self._opened(self._writer).run(lambda tx: transaction(tx, *args, **kwargs), durable=False)

    @staticmethod
    def _opened(worker: _Worker | None) -> _Worker:
        if worker is None:
            raise StoreError("The store is not open.")
        return worker
