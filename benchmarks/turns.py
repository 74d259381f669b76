"""Turns of the same server: by `Runner.run`, and by bare httpx with a session of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.bare import BareClient
from benchmarks.stage import Stage
from cnap_runner import Message, RunRequest
from cnap_runner.model.events import RunEvent, TextDelta
from cnap_runner.runner.runner import Runner
from cnap_runner.runner.turns.callbacks import StatusCallback

Heard = list[tuple[str, int]]
"""Pieces of text and the moment each was heard, of the clock that all processes share."""


@dataclass(frozen=True)
class Pair:
    """One running agent, and a bare client of its server."""

    runner: Runner
    bare: BareClient

    async def run(self, prompt: str, *, task_id: str = "main", callback: StatusCallback | None = None) -> str:
        """Do one turn our way and return its answer; raises `RuntimeError` where it did not succeed."""
        request = RunRequest(task_id=task_id, messages=(Message(role="user", content=prompt),))
        result = await self.runner.run(request, callback)
        if not result.success:
            raise RuntimeError(f"The turn failed: {result.error}")
        return result.output

    async def run_bare(self, prompt: str, *, session_id: str, heard: Heard | None = None) -> str:
        """Do one turn by bare httpx and return its answer."""

        def hear(text: str) -> None:
            if heard is not None:
                heard.append((text, time.monotonic_ns()))

        return await self.bare.turn(session_id, prompt, listener=hear)


@dataclass
class Ear(StatusCallback):
    """A callback that notes when it was told of each piece of text."""

    heard: Heard = field(default_factory=list)

    async def on_event(self, _: str, event: RunEvent, /) -> None:
        if isinstance(event, TextDelta):
            self.heard.append((event.text, time.monotonic_ns()))


@asynccontextmanager
async def pair(stage: Stage, agent_id: str) -> AsyncIterator[Pair]:
    """Start an agent, and connect to its server by hand as well."""
    await stage.manager.create_runner(stage.spec(agent_id))
    runner = await stage.manager.start_runner(agent_id)
    password = (await runner.exec(["cat", "/run/secrets/server-password"])).output.decode()
    async with BareClient(runner.record.endpoint or "", password.strip()) as bare:
        yield Pair(runner, bare)
