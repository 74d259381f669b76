"""The controller on fakes: one install, an executor on one of its managers, and whoever listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerError, RunnerManager, wiring
from cnap_runner.controller import Executor, TaskListener
from cnap_runner.model.events import RunEvent
from cnap_runner.model.task import TaskRecord
from cnap_runner.testing.house import House


class Heard(TaskListener):
    """Keeps all that is told, in order."""

    def __init__(self) -> None:
        self.all: list[TaskRecord | RunEvent | RunnerError] = []

    @property
    def states(self) -> list[tuple[str, str]]:
        """Each change of a task that was told."""
        return [(told.task_id, str(told.state)) for told in self.all if isinstance(told, TaskRecord)]

    async def on_task(self, task: TaskRecord, /) -> None:
        """Keep it."""
        self.all.append(task)

    async def on_event(self, _task_id: str, event: RunEvent, /) -> None:
        """Keep it."""
        self.all.append(event)

    async def on_error(self, _task_id: str, error: RunnerError, /) -> None:
        """Keep it."""
        self.all.append(error)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    house = House(tmp_path / "data")
    monkeypatch.setattr(wiring, "make_backend", lambda _: house.backend)
    yield house
    for server in house.servers.values():
        await server.kill()


@pytest.fixture
async def manager(house: House) -> AsyncIterator[RunnerManager]:
    """An open manager that knows the agents alice and bob; two agents' tasks are done at once."""
    async with house.manager(tasks_at_once=2) as manager:
        for agent_id in ("alice", "bob", "carol"):
            await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))
        yield manager


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def executor(manager: RunnerManager, heard: Heard) -> AsyncIterator[Executor]:
    async with Executor(manager, listener=heard) as executor:
        yield executor


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until something has happened that is about to."""

    async def until(condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await anyio.sleep(0.01)

    return until
