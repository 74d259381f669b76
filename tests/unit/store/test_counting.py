"""What is counted in the store, and how things stand in numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import anyio.to_thread
import pytest

from cnap_runner.errors import LeaseLost, StoreError
from cnap_runner.model.counts import CONTAINERS_CREATED, RUN_DURATION, RUNS, TURN_DURATION
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.model.run import RunRecord, RunResult
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.sql import SqlStore

Enter = Callable[..., Awaitable[RunRecord]]
Ending = Callable[..., RunResult]


async def test_a_run_is_counted_with_its_end_and_only_once(
    store: SqlStore, sent: Enter, ending: Ending, now: datetime
) -> None:
    """In the same transaction: one who comes too late changes neither the ledger nor a count."""
    run = await sent("r1")
    await store.finish_run(run, ending(run), runner=None, at=now + timedelta(seconds=3))
    with pytest.raises(LeaseLost):
        await store.finish_run(run, ending(run, "late"), runner=None, at=now)
    counts = (await store.tally()).counts
    assert {labels: number for labels, number in RUNS.in_counts(counts).items() if number} == {("succeeded",): 1}
    assert RUN_DURATION.in_counts(counts).seconds == 1.5
    assert TURN_DURATION.in_counts(counts).seconds == 3


async def test_counts_of_all_managers_add_up(store: SqlStore, path: Path) -> None:
    """Each adds what it counted, through its own connection, and nothing is set."""
    other = SqlStore(path)
    await other.open()
    for each in (store, other, store):
        await each.add_counts({CONTAINERS_CREATED.key(): 2})
    await other.aclose()
    await store.add_counts({})
    assert CONTAINERS_CREATED.in_counts((await store.tally()).counts) == {(): 6}


async def test_the_tally_tells_how_the_install_stands(
    store: SqlStore, enter: Enter, sent: Enter, ready: RunnerRecord, now: datetime
) -> None:
    """Agents by status without the deleted ones, unfinished runs by state, and since when the oldest waits."""
    assert (await store.tally()).oldest_queued_at is None
    await sent("r1")
    await enter("r2")
    await store.mark_deleted("bob", at=now)
    await store.add_decision(Decision("alice", DecisionKind.STARTED, "it was needed", now))
    tally = await store.tally()
    assert tally.runners == {RunnerStatus.READY: 1}
    assert tally.containers == 1
    assert tally.runs == {"sending": 1, "queued": 1}
    assert tally.oldest_queued_at == now
    assert tally.managers == {"manager": 3}
    assert tally.counts["started"] == (await store.decision_totals())[DecisionKind.STARTED] == 1


async def test_a_scrape_may_come_from_any_thread(store: SqlStore) -> None:
    """The loop's own, which waits for milliseconds then, and those of an HTTP server; a closed store says so."""
    expected = await store.tally()
    assert store.tally_blocking() == expected
    assert await anyio.to_thread.run_sync(store.tally_blocking) == expected
    await store.aclose()
    with pytest.raises(StoreError, match="not open"):
        store.tally_blocking()
