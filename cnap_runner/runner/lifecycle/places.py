"""The places of ``max_containers``: waited for in line, over all managers, and taken from whoever has been idle for longest."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import NoReturn

import anyio

from cnap_runner.aio.begun import begun
from cnap_runner.aio.shield import run_shielded
from cnap_runner.errors import MaxContainersReached, RunnerError, StoreBusy
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.lifecycle.steps import LifeSteps
from cnap_runner.telemetry.logging import get_logger

LOOK_SECONDS = 0.25
"""How soon a place that became free elsewhere is noticed."""
SAID_EVERY_SECONDS = 1.0
"""How often whoever makes room for itself says that it still waits."""
LOOK_BEHIND_SECONDS = 2.0
"""How often those ask who wait behind others of their manager, and so say that they wait. Their turn is when the others had theirs, unless the
store knows another order."""
STAGGER_SECONDS = 0.1
"""Least time between the beginnings of two starts of one manager: what each does first, creating, is the engine's bottleneck."""
ANSWERED_WITHIN = timedelta(seconds=15)
"""For one try to get a place. The store gives up sooner."""

_log = get_logger(__name__)


class Places:
    """Gets places for starts. The agent's lease is held; the place in line is its ticket, and goes with it."""

    def __init__(self, install: Install, steps: LifeSteps, *, clean_up: Callable[[], Awaitable[None]]) -> None:
        """``clean_up`` ends what managers that were killed had begun to start or stop: it would take a place for ever."""
        self._install = install
        self._steps = steps
        self._clean_up = clean_up
        self._line = _Line()

    async def take(self, record: RunnerRecord) -> None:
        """Write that a start is about to happen once there is a place; raises `MaxContainersReached` after ``place_timeout``.

        When it is cancelled, only `is_taken` tells whether that was written.
        """
        install = self._install
        with anyio.move_on_after(install.settings.place_timeout.total_seconds()):
            await self._wait(record)
            install.known.see(record)
            return
        if await self._reserve(record):  # the room that was being made when the time was over
            install.known.see(record)
            return
        await self._refuse(record.agent_id)

    async def _refuse(self, agent_id: str) -> NoReturn:
        """Say why there was no place: none became free, or those that did went to others."""
        install = self._install
        places, waited = install.settings.max_containers, install.settings.place_timeout.total_seconds()
        line = await install.store.list_waiting(install.is_alive, at=install.now())
        before = line.index(agent_id) if agent_id in line else 0
        others = ", and others wait before it" if before else ""
        reason = f"all places for containers ({places}) were taken by agents at work for {waited:g} s{others}"
        evidence: Evidence = {"max_containers": places, "waiting_before": before}
        await note(install, agent_id, DecisionKind.REFUSED, reason, evidence)
        taken = f"All places for containers ({places}) are taken by agents that cannot yield theirs"
        raise MaxContainersReached(f"{taken}{others}.")

    async def _stay_in_line(self, agent_id: str) -> None:
        """Go on waiting where what is done meanwhile takes long: who is not heard of is passed over."""
        install = self._install
        while True:
            await anyio.sleep(SAID_EVERY_SECONDS)
            with contextlib.suppress(StoreBusy):
                await install.store.still_waits(agent_id, install.manager_id, at=install.now())

    async def _wait(self, record: RunnerRecord) -> None:
        """Ask until there is a place. Of those who wait here only the first asks often, and makes room: the others come after it anyway."""
        if await self._reserve(record):
            return
        with self._line.standing() as is_first:
            while True:
                if not is_first.is_set():
                    with anyio.move_on_after(LOOK_BEHIND_SECONDS):
                        await is_first.wait()
                else:
                    await self._look_for_room(record.agent_id)
                if await self._reserve(record):
                    return

    async def _look_for_room(self, agent_id: str) -> None:
        async with begun(self._stay_in_line(agent_id)):
            if not await self._make_room(agent_id):
                await self._clean_up()
                await anyio.sleep(LOOK_SECONDS)

    async def is_taken(self, record: RunnerRecord) -> bool:
        """Tell whether it is written that this very start is about to happen, or has happened."""
        return (await self._install.store.get_agent(record.agent_id)).runner.instance_id == record.instance_id

    async def _reserve(self, record: RunnerRecord) -> bool:
        """Ask for a place, to the end: nobody would know of one that was got by a call that was cancelled."""
        install, reserved = self._install, False

        async def reserve() -> None:
            nonlocal reserved
            reserved = await install.store.reserve_start(
                record,
                manager_id=install.manager_id,
                max_containers=install.settings.max_containers,
                at=install.now(),
                is_alive=install.is_alive,
            )

        await run_shielded(reserve, limit=ANSWERED_WITHIN)
        return reserved

    async def _make_room(self, agent_id: str) -> bool:
        try:
            return await self._steps.make_room(wanted_by=agent_id)
        except RunnerError as error:
            _log.warning("place_not_yielded", agent_id=agent_id, error=str(error))
            return False


class _Line:
    """Those of one manager who wait for a place, in the order in which they came. Who comes first of all managers, the store tells."""

    def __init__(self) -> None:
        self._waiting: list[anyio.Event] = []

    @contextmanager
    def standing(self) -> Iterator[anyio.Event]:
        """Stand in line for the block; the event tells that one is the first."""
        is_first = anyio.Event()
        self._waiting.append(is_first)
        self._waiting[0].set()
        try:
            yield is_first
        finally:
            self._waiting.remove(is_first)
            if self._waiting:
                self._waiting[0].set()


class StartGate:
    """Bounds how many instances one manager starts at the same time, first come, first served, and spreads their beginnings."""

    def __init__(self, at_once: int) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)
        self._next = -math.inf

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Be one of those that start, for the block."""
        async with self._limiter:
            now = anyio.current_time()
            begin = max(now, self._next)
            self._next = begin + STAGGER_SECONDS
            if begin > now:
                await anyio.sleep(begin - now)
            yield
