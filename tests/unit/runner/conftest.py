"""The runner on fakes: instances in memory, servers on loopback that boot in a millisecond, the real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, Settings, wiring
from cnap_runner.model.instance import InstanceSpec
from cnap_runner.runner.install import Install
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.fake_opencode import FakeOpenCode
from cnap_runner.testing.fake_opencode.script import Step


class House:
    """One data folder and one engine, for as many managers as a test wants."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.backend = FakeBackend(serve=self._serve)
        self.make_server: Callable[[str], FakeOpenCode] = FakeOpenCode
        self.servers: dict[str, FakeOpenCode] = {}
        """The latest server of each agent."""
        self.starts: list[str] = []
        """Agents whose instances were started, in order."""
        self._turns: list[Sequence[Step]] = []
        self._prompts: list[str] = []

    def script(self, *turns: Sequence[Step]) -> None:
        """Script the next turns, of the present server or the next one."""
        for server in self.servers.values():
            server.script(*turns)
        if not self.servers:
            self._turns += turns

    def manager(self, *, is_observer: bool = False, **settings: Any) -> RunnerManager:
        """A manager of this install, in its own right: with its own lock and its own connections."""
        quick = {"start_timeout": 5, "health_timeout": 5, "stall_timeout": 1, "not_started_after": 2, **settings}
        return RunnerManager(Settings(data_dir=self.data_dir, **quick), is_observer=is_observer)

    async def kill(self, agent_id: str = "alice") -> None:
        """Let an agent's instance crash."""
        await self.servers[agent_id].kill()
        (instance,) = [i for i in self.backend._instances.values() if i.is_live and i.spec.agent_id == agent_id]
        self.backend.kill(instance.spec.instance_id)

    @property
    def prompts(self) -> list[str]:
        """All prompts that arrived, over all servers."""
        return self._prompts + [prompt for server in self.servers.values() for prompt in server.prompts]

    async def _serve(self, spec: InstanceSpec) -> str:
        key = (self.data_dir / "install.key").read_bytes()
        server = self.make_server(password_of(key, spec.instance_id))
        server.script(*self._turns)
        self._turns.clear()
        if (earlier := self.servers.get(spec.agent_id)) is not None:
            await earlier.kill()
            self._prompts += earlier.prompts
            server.sessions.update(earlier.sessions)
            for session in server.sessions.values():
                session.publish = server.streams.publish
        await server.start()
        self.servers[spec.agent_id] = server
        self.starts.append(spec.agent_id)
        return server.base_url


def password_of(key: bytes, instance_id: str) -> str:
    return Install.password_of(type("Key", (), {"key": key})(), instance_id)


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
