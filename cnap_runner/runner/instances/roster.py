"""Which instances this manager talks to or starts, and what it was told about each meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cnap_runner.runner.boot import Life, LiveInstance
from cnap_runner.runner.collectors.following import LogCollectors


class Roster:
    """One live instance per agent, as this manager used it last."""

    def __init__(self, logs: LogCollectors) -> None:
        self._logs = logs
        self._live: dict[str, LiveInstance] = {}
        self._starting: dict[str, Life] = {}

    def last_used(self, agent_id: str) -> LiveInstance | None:
        """Give the instance this manager used last for an agent; whether it still is the agent's, only the lease's holder knows."""
        return self._live.get(agent_id)

    def note_death(self, instance_id: str, reason: str, *, is_out_of_memory: bool = False) -> None:
        """Tell whoever talks to this instance, or starts it, that it ended."""
        lives = [live.life for live in self._live.values() if live.ref.instance_id == instance_id]
        if instance_id in self._starting:
            lives.append(self._starting[instance_id])
        for life in lives:
            life.reason = life.reason or reason
            life.is_out_of_memory = life.is_out_of_memory or is_out_of_memory
            life.died.set()

    def note_freeze(self, instance_id: str, *, is_frozen: bool) -> None:
        """Remember that an instance was frozen or thawed: one that is frozen is looked at, and thawed, before its next use."""
        for live in self._live.values():
            if live.ref.instance_id == instance_id:
                live.life.is_frozen = is_frozen

    @contextmanager
    def starting(self, instance_id: str) -> Iterator[Life]:
        """Give the life of an instance that is being started, of whose end it can be told in the meantime."""
        life = self._starting[instance_id] = Life()
        try:
            yield life
        finally:
            del self._starting[instance_id]

    async def remember(self, live: LiveInstance) -> LiveInstance:
        """Keep an instance as its agent's, in the place of any other, and follow its output."""
        await self.forget(live.agent_id)
        self._live[live.agent_id] = live
        self._logs.follow(live.agent_id, live.ref)
        return live

    async def forget(self, agent_id: str) -> None:
        """Close the stream and client of an agent's instance, which stays as it is. None: nothing happens."""
        live = self._live.pop(agent_id, None)
        if live is not None:
            await live.aclose()

    async def aclose(self) -> None:
        """Forget all of them."""
        for live in self._live.values():
            live.events.cancel()  # at once, whatever becomes of the closing below
        for agent_id in list(self._live):
            await self.forget(agent_id)
