"""How the store behaves towards the event loop, other processes, and the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from blockbuster import blockbuster_ctx

from cnap_runner.errors import StoreBusy, StoreError
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord, RunResult
from cnap_runner.store.base import WishKind
from cnap_runner.store.database import Database
from cnap_runner.store.sql import SqlStore
from cnap_runner.store.transactions import ledger, wishes

Enter = Callable[..., Awaitable[RunRecord]]
LIMIT = timedelta(seconds=5)


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = Database(path, busy_timeout=LIMIT)
    await database.open()
    yield database
    await database.aclose()


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, in the middle of writing."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


async def test_a_writer_that_does_not_end_makes_the_store_busy(
    path: Path, writer: sqlite3.Connection, now: datetime
) -> None:
    """Past the limit StoreBusy is raised; reading goes on meanwhile, and writing works once the other is done."""
    store = SqlStore(path, busy_timeout=timedelta(milliseconds=50))
    with pytest.raises(StoreBusy):
        await store.open()
    writer.rollback()
    await store.open()
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy) as caught:
        await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now)
    assert caught.value.retryable
    assert await store.list_agents() == []
    writer.rollback()
    await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now)
    await store.aclose()


async def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    """Before open and after aclose each call raises StoreError; aclose is idempotent."""
    store = SqlStore(path)
    await store.aclose()
    with pytest.raises(StoreError, match="not open"):
        await store.list_agents()
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreError, match="not open"):
        await store.install_id()


async def test_the_event_loop_never_waits_for_the_database(
    path: Path, enter: Enter, ending: Callable[..., RunResult], now: datetime
) -> None:
    """No call of the store blocks the loop, opening and closing included."""
    with blockbuster_ctx():
        store = SqlStore(path)
        await store.open()
        run = await enter("r1")
        assert await store.claim_turn(run, at=now, is_alive=lambda _: True)
        await store.add_wish("alice", WishKind.STOP, task_id=None, at=now)
        await store.finish_run(run, ending(run), runner=None, at=now)
        await store.list_agents()
        await store.aclose()


async def test_a_cancelled_transaction_happens_whole_and_before_later_ones(database: Database) -> None:
    """A cancelled caller goes on at once; its transaction, begun already, is not torn, and the next call queues up behind it."""
    began, may_end = threading.Event(), threading.Event()

    def make_slowly(tx: sa.Connection) -> None:
        tx.exec_driver_sql("INSERT INTO install VALUES (1, 'first')")
        began.set()
        may_end.wait()

    task = asyncio.create_task(database.write(make_slowly))
    while not began.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    later = asyncio.create_task(
        database.write(lambda tx: tx.exec_driver_sql("SELECT install_id FROM install").scalars().all())
    )
    may_end.set()
    assert await later == ["first"]


async def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    """An exception undoes all of a transaction, and the connection works afterwards."""

    def fail(tx: sa.Connection) -> None:
        tx.exec_driver_sql("INSERT INTO install VALUES (1, 'half')")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)
    assert await database.read(lambda tx: tx.exec_driver_sql("SELECT * FROM install").all()) == []


async def test_what_must_not_be_forgotten_waits_for_the_disk(database: Database) -> None:
    """A durable transaction runs with full synchronisation, whatever came before; a relaxed one without."""

    def level(tx: sa.Connection) -> int:
        return tx.exec_driver_sql("PRAGMA synchronous").scalar_one()  # type: ignore[no-any-return]

    full, normal = 2, 1
    assert await database.write(level) == full
    assert await database.write_relaxed(level) == normal
    assert await database.write(level) == full


async def test_prompts_and_results_are_durable(
    store: SqlStore,
    enter: Enter,
    ending: Callable[..., RunResult],
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The steps after which something exists outside, or is known to the caller, are committed durably."""
    durable: list[str] = []
    write = Database.write

    async def spy(self: Database, transaction: Callable[..., object], *args: object, **kwargs: object) -> object:
        durable.append(transaction.__name__)
        return await write(self, transaction, *args, **kwargs)

    monkeypatch.setattr(Database, "write", spy)
    run = await enter("r1")
    await store.claim_turn(run, at=now, is_alive=lambda _: True)
    await store.mark_sending(run, session_id="s", instance_id="i", after_message_id=None, at=now)
    await store.mark_running(run)
    await store.finish_run(run, ending(run), runner=None, at=now)
    assert durable == ["mark_sending", "finish"]


async def test_the_queue_is_read_by_its_index_however_long_the_ledger(database: Database) -> None:
    """Ended entries cost the queue nothing, nor the wishes of an agent those of others."""

    def plans(tx: sa.Connection) -> list[str]:
        statements = (ledger._QUEUE, ledger._CLAIM, wishes._MEANING)
        found = []
        for statement in statements:
            compiled = statement.compile(dialect=tx.dialect)
            values = dict.fromkeys(compiled.params, "x")
            plan = tx.execute(sa.text(f"EXPLAIN QUERY PLAN {_named(compiled)}"), values)
            found += [row.detail for row in plan]
        return found

    def _named(compiled: sa.Compiled) -> str:
        text = str(compiled)
        for name in compiled.positiontup or ():  # type: ignore[attr-defined]
            text = text.replace("?", f":{name}", 1)
        return text

    details = await database.read(plans)
    assert any("runs_unfinished" in detail for detail in details)
    assert not [detail for detail in details if detail.startswith("SCAN")]
