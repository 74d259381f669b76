"""The runner on fakes: instances in memory, servers on loopback that boot in a millisecond, the real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, wiring
from cnap_runner.testing.house import House


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    house = House(tmp_path / "data")
    monkeypatch.setattr(wiring, "make_backend", lambda _: house.backend)
    yield house
    for server in house.servers.values():
        await server.kill()


@pytest.fixture
async def manager(house: House) -> AsyncIterator[RunnerManager]:
    async with house.manager() as manager:
        yield manager


@pytest.fixture
def ask() -> Callable[..., RunRequest]:
    def make(prompt: str = "hello", **more: Any) -> RunRequest:
        return RunRequest(messages=[Message(role="user", content=prompt)], **more)

    return make


@pytest.fixture
def spec() -> AgentSpec:
    return AgentSpec(agent_id="alice", model="fake/demo")
