"""A manager in a process of its own, for tests that race real processes.

Reads commands from standard input, one JSON list per line, ``[moment, name, arguments…]``; waits until the moment (of the wall clock, which
all processes share), does it, and answers with one line: the value, or ``{"raised": …}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnap_runner.errors import RunnerError
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.store.base import NewRun
from cnap_runner.store.presence import InstallLock, ManagerLock, liveness
from cnap_runner.store.sql import SqlStore


def now() -> datetime:
    return datetime.now(UTC)


class Manager:
    """What the tests ask of it."""

    def __init__(self, data_dir: Path, manager_id: str) -> None:
        self.data_dir, self.manager_id = data_dir, manager_id
        self.lock = ManagerLock(data_dir, manager_id)
        self.store = SqlStore(data_dir / "runner.db")
        self.is_alive = liveness(data_dir)

    async def open(self) -> dict[str, Any]:
        await self.lock.__aenter__()
        async with InstallLock(self.data_dir):
            await self.store.open()
            install_id = await self.store.install_id()
        await self.store.register_manager(self.manager_id, pid=os.getpid(), at=now())
        return {"install_id": install_id, "migrated": "alembic" in sys.modules}

    async def put(self, *agent_ids: str) -> None:
        for agent_id in agent_ids:
            await self.store.put_agent(AgentSpec(agent_id=agent_id, model="f/m"), at=now())

    async def reserve(self, agent_id: str, max_containers: int) -> bool:
        await self.store.acquire_lease(agent_id, self.manager_id, "start", at=now(), is_alive=self.is_alive)
        record = RunnerRecord(agent_id).start_intended(instance_id=f"i-{agent_id}", spec_hash="h", at=now())
        is_reserved = await self.store.reserve_start(
            record, manager_id=self.manager_id, max_containers=max_containers, at=now()
        )
        if not is_reserved:
            await self.store.release_lease(agent_id, self.manager_id)  # who keeps it stands in line for the next place
        return is_reserved

    async def enter(self, agent_id: str, run_id: str, key: str | None) -> list[str]:
        new = NewRun(run_id, agent_id, "main", self.manager_id, "print", key, None, now())
        entry = await self.store.enter_run(new, must_be_alone=False)
        return [entry.admission, entry.run.run_id]

    async def lease(self, agent_id: str) -> bool:
        return await self.store.acquire_lease(agent_id, self.manager_id, "stop", at=now(), is_alive=self.is_alive)

    async def claim(self, run_id: str) -> bool:
        run = await self.store.get_run(run_id)
        return await self.store.claim_turn(run, at=now(), is_alive=self.is_alive)

    async def send(self, run_id: str) -> bool:
        run = await self.store.get_run(run_id)
        answer = await self.store.mark_sending(run, session_id="s", instance_id="i", after_message_id=None, at=now())
        return isinstance(answer, RunRecord)

    async def take_over(self, run_id: str) -> str | None:
        run = await self.store.get_run(run_id)
        taken = await self.store.take_over(run, manager_id=self.manager_id, at=now(), is_alive=self.is_alive)
        return None if taken is None else taken.state


async def main() -> None:
    manager = Manager(Path(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        moment, name, *arguments = json.loads(line)
        await asyncio.sleep(moment - time.time())
        try:
            answer: Any = await getattr(manager, name)(*arguments)
        except RunnerError as error:
            answer = {"raised": error.code}
        print(json.dumps(answer), flush=True)
    await manager.store.aclose()


asyncio.run(main())
