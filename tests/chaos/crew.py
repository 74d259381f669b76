"""The workers, and who gives them orders: each order goes to one after the other, until somebody says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.orders import Order
from tests.chaos.places import WITNESS, Places

SPEECHLESS_SECONDS = 600
"""After which an order without an answer counts as lost, and the run as failed."""
AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Ending:
    """How an order ended, as its caller was told."""

    order: Order
    at: float
    said: dict[str, Any]
    tries: int

    @property
    def is_success(self) -> bool:
        """Whether the agent answered."""
        return str(self.said["outcome"]) == "succeeded"


@dataclass(slots=True)
class Worker:
    """One worker process."""

    name: str
    process: asyncio.subprocess.Process
    in_hand: dict[int, tuple[Order, asyncio.Future[dict[str, Any]]]] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    measured: asyncio.Future[dict[str, int]] | None = None

    def tell(self, **line: Any) -> None:
        """Hand a line over. One that is dead does not hear it."""
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps(line) + "\n").encode())

    async def measure(self) -> dict[str, int]:
        """Ask what it holds."""
        self.measured = asyncio.get_running_loop().create_future()
        self.tell(do="measure")
        return await self.measured

    @property
    def agents(self) -> list[str]:
        """Those whose orders it has in hand."""
        return sorted({order.agent_id for order, _ in self.in_hand.values()})


class Crew:
    """So many workers and the witness; one that ends is replaced."""

    def __init__(self, places: Places, *, size: int, model_port: int, seed: int) -> None:
        self._places = places
        self._port = model_port
        self._names = [WITNESS, *(f"worker-{number}" for number in range(1, size))]
        self._chance = random.Random(seed)  # noqa: S311 - to be repeatable
        self._keepers: list[asyncio.Task[None]] = []
        self._is_over = False
        self.workers: dict[str, Worker] = {}
        self.endings: list[Ending] = []
        self.again: Counter[str] = Counter()
        """Why orders were handed over once more."""
        self.exits: Counter[int] = Counter()

    async def __aenter__(self) -> Crew:
        self._keepers = [asyncio.create_task(self._keep(name)) for name in self._names]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let all finish as a user's programs do."""
        self._is_over = True
        for worker in self.workers.values():
            worker.tell(do="finish")
        await asyncio.gather(*self._keepers)

    async def _keep(self, name: str) -> None:
        """Keep one place filled."""
        while not self._is_over:
            worker = await self._start(name)
            self.workers[name] = worker
            await self._listen(worker)
            self.exits[await worker.process.wait()] += 1
            del self.workers[name]
            for _, waiting in worker.in_hand.values():
                if not waiting.done():
                    waiting.set_result({"raised": "worker lost"})

    async def _start(self, name: str) -> Worker:
        argv = ["-m", "tests.chaos.worker", str(self._places.folder), name, str(self._port)]
        pipe = asyncio.subprocess.PIPE
        with (self._places.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *argv,
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                env={**os.environ, "DOCKER_HOST": f"unix://{self._places.socket}"},
            )
        return Worker(name, process)

    async def _listen(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        while line := await worker.process.stdout.readline():
            said = json.loads(line)
            if "ready" in said:
                worker.ready.set()
            elif "measured" in said and worker.measured is not None:
                worker.measured.set_result(said["measured"])
            elif said.get("order") in worker.in_hand:
                _, waiting = worker.in_hand[said["order"]]
                if not waiting.done():
                    waiting.set_result(said)

    # --- orders ---

    async def work_off(self, orders: Iterator[Order]) -> None:
        """Have the orders of one lane carried out, one after the other."""
        for order in orders:
            try:
                async with asyncio.timeout(SPEECHLESS_SECONDS):
                    self.endings.append(await self._carry_out(order))
            except TimeoutError:
                raise TimeoutError(f"Nobody said how {order} ended.") from None

    async def until_all_answered(self, agents: list[str]) -> None:
        """Wait until each agent has answered once."""
        while not set(agents) <= {ending.order.agent_id for ending in self.endings if ending.is_success}:
            await asyncio.sleep(0.2)

    async def until_answers(self, count: int, *, at_most: float, unless: asyncio.Event) -> None:
        """Wait for so many more answers, so that harm keeps the pace of the machine; or for so many seconds, or for this event."""
        enough = len(self.endings) + count
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                while len(self.endings) < enough and not unless.is_set():
                    await asyncio.sleep(0.2)

    async def _carry_out(self, order: Order) -> Ending:
        """Ask until somebody says how it ended. What was not sent is asked for again, by the same key."""
        tries = 0
        while True:
            worker = await self._somebody()
            tries += 1
            waiting = asyncio.get_running_loop().create_future()
            worker.in_hand[order.number] = (order, waiting)
            worker.tell(do="run", order=order.as_dict())
            said = await waiting
            worker.in_hand.pop(order.number, None)
            if "raised" not in said and said["error"] != "not_sent":
                return Ending(order, time.time(), said, tries)
            self.again[said.get("raised", "not_sent")] += 1
            await asyncio.sleep(AGAIN_SECONDS)

    async def _somebody(self) -> Worker:
        """Choose a worker, the witness too; wait while there is none."""
        while True:
            ready = [worker for worker in self.workers.values() if worker.ready.is_set()]
            if ready:
                return self._chance.choice(ready)
            await asyncio.sleep(0.1)
