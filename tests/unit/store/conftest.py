"""A real store for each test, copied from one that was migrated once."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import InstanceRef
from cnap_runner.model.run import Outcome, RunError, RunRecord, RunResult
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.store.base import NewRun
from cnap_runner.store.sql import SqlStore
from cnap_runner.store.upgrade import upgrade

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    """A moment, with microseconds."""
    return START


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the present schema."""
    path = tmp_path_factory.mktemp("store") / "runner.db"
    upgrade(path, busy_timeout=timedelta(seconds=5))
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A database of this test's own."""
    return Path(shutil.copy(template, tmp_path / "runner.db"))


@pytest.fixture
def living() -> set[str]:
    """Ids of the managers that live; a test takes out whom it kills."""
    return {"m1", "m2", "m3"}


@pytest.fixture
def is_alive(living: set[str]) -> Callable[[str], bool]:
    """Whether a manager lives."""
    return living.__contains__


@pytest.fixture
async def store(path: Path, living: set[str]) -> AsyncIterator[SqlStore]:
    """A store that knows the living managers and the agents alice and bob."""
    store = SqlStore(path)
    await store.open()
    for manager_id in sorted(living):
        await store.register_manager(manager_id, pid=1, at=START)
    for agent_id in ("alice", "bob"):
        await store.put_agent(AgentSpec(agent_id=agent_id, model="fake/model"), at=START)
    yield store
    await store.aclose()


@pytest.fixture
def enter(store: SqlStore) -> Callable[..., Awaitable[RunRecord]]:
    """Enter a run and return its entry: ``await enter("r1", owner="m2", key="k")``."""

    async def enter(
        run_id: str, *, agent_id: str = "alice", owner: str = "m1", task_id: str = "main", key: str | None = None
    ) -> RunRecord:
        new = NewRun(run_id, agent_id, task_id, owner, "print", key, None, START)
        return (await store.enter_run(new, must_be_alone=False)).run

    return enter


@pytest.fixture
def sent(
    store: SqlStore, enter: Callable[..., Awaitable[RunRecord]], is_alive: Callable[[str], bool]
) -> Callable[..., Awaitable[RunRecord]]:
    """Enter a run and bring it to ``sending``."""

    async def sent(run_id: str, **options: str) -> RunRecord:
        run = await enter(run_id, **options)
        assert await store.claim_turn(run, at=START, is_alive=is_alive)
        marked = await store.mark_sending(run, session_id="ses", instance_id="i1", after_message_id="msg", at=START)
        assert isinstance(marked, RunRecord)
        return marked

    return sent


@pytest.fixture
def ending() -> Callable[..., RunResult]:
    """The result of a run: succeeded, or failed with a code."""

    def ending(run: RunRecord, code: str | None = None) -> RunResult:
        return RunResult(
            run_id=run.run_id,
            agent_id=run.agent_id,
            task_id=run.task_id,
            outcome=Outcome.FAILED if code else Outcome.SUCCEEDED,
            started_at=START,
            duration=timedelta(seconds=1.5),
            output="done",
            error=RunError(code, "it went wrong", retryable=True) if code else None,
        )

    return ending


@pytest.fixture
async def ready(store: SqlStore, is_alive: Callable[[str], bool]) -> RunnerRecord:
    """The record of alice's ready instance i1, as stored."""
    assert await store.acquire_lease("alice", "m1", "start", at=START, is_alive=is_alive)
    starting = RunnerRecord("alice").start_intended(instance_id="i1", spec_hash="h", at=START)
    assert await store.reserve_start(starting, manager_id="m1", max_containers=10, at=START)
    record = starting.created(InstanceRef("i1", "c1")).became_ready(endpoint="http://127.0.0.1:1", at=START)
    await store.save_runner(record, manager_id="m1")
    await store.release_lease("alice", "m1")
    return record
