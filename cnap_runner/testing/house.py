"""One install on fakes: instances in memory, servers on loopback that boot in a millisecond, the real store.

The manager's parts come from `cnap_runner.wiring`; who uses this puts the house's backend there (``wiring.make_backend``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnap_runner.model.instance import InstanceSpec
from cnap_runner.settings import Settings
from cnap_runner.testing.fake_backend import FakeBackend
from cnap_runner.testing.fake_opencode import FakeOpenCode
from cnap_runner.testing.fake_opencode.script import Step
from cnap_runner.wiring import RunnerManager

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


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

    def manager(
        self, *, is_observer: bool = False, registry: CollectorRegistry | None = None, **settings: Any
    ) -> RunnerManager:
        """A manager of this install, in its own right: with its own lock and its own connections."""
        quick: dict[str, Any] = {"start_timeout": 5, "health_timeout": 5, "stall_timeout": 1, "not_started_after": 2}
        quick |= {"retry_backoff": 0.01, "retry_backoff_max": 0.02, **settings}
        return RunnerManager(Settings(data_dir=self.data_dir, **quick), is_observer=is_observer, registry=registry)

    async def kill(self, agent_id: str = "alice") -> None:
        """Let an agent's instance crash."""
        await self.servers[agent_id].kill()
        (instance_id,) = self.backend.live(agent_id)
        self.backend.kill(instance_id)

    @property
    def prompts(self) -> list[str]:
        """All prompts that arrived, over all servers."""
        return self._prompts + [prompt for server in self.servers.values() for prompt in server.prompts]

    async def _serve(self, spec: InstanceSpec) -> str:
        key = (self.data_dir / "install.key").read_bytes()
        server = self.make_server(hmac.new(key, spec.instance_id.encode(), hashlib.sha256).hexdigest())
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
