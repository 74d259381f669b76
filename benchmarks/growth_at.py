"""``python -m benchmarks.growth_at N``: what one manager costs that knows N agents, as JSON. A process of its own for each N: memory is the process's."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

import anyio
import anyio.to_thread
from prometheus_client import generate_latest

from benchmarks.crowd import Crowd, gather
from cnap_runner import wiring
from cnap_runner.cli.agents import agent_lines
from cnap_runner.runner.lifecycle.keeper import Keeper
from cnap_runner.runner.manager import RunnerManager
from cnap_runner.runner.recovery.resync import Resync
from cnap_runner.runner.watch import Watch

LIVE = 20
ROUNDS = 15

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured of one manager. Times are medians in milliseconds, but for the start."""

    known: int
    live: int
    start_ms: float
    """The slowest of three: from the first call to an open manager."""
    sweep_ms: float
    """The keeper's look at all live instances, and the comparison of all records with all instances."""
    scrape_ms: float
    ps_ms: float
    memory_mb: float
    """Of the whole process, at its highest, after all of it."""


def main() -> None:
    """Measure one size and print it."""
    print(json.dumps(asdict(anyio.run(_measure, int(sys.argv[1])))))


async def _measure(known: int) -> Size:
    with tempfile.TemporaryDirectory(prefix="cnap-bench-") as name:
        crowd = await gather(Path(name) / "data", known=known, live=min(LIVE, known))
        starts = [await _start(crowd) for _ in range(3)]
        async with crowd.manager() as manager:
            return Size(
                known=known,
                live=min(LIVE, known),
                start_ms=max(starts),
                sweep_ms=await _median_ms(_sweep_of(manager)),
                scrape_ms=await _median_ms(lambda: anyio.to_thread.run_sync(generate_latest, crowd.registry)),
                ps_ms=await _median_ms(lambda: agent_lines(cast("wiring.RunnerManager", manager))),
                memory_mb=_memory_mb(),
            )


async def _start(crowd: Crowd) -> float:
    began = perf_counter()
    async with crowd.manager():
        return (perf_counter() - began) * 1000


def _sweep_of(manager: RunnerManager) -> Work:
    """Give all that a manager does in each ``sweep_interval``."""
    parts = manager.parts
    keeper = Keeper(parts.install, parts.instances, parts.active, parts.tasks, chores=())
    resync = Resync(parts.install, parts.instances, Watch(parts.install, parts.instances, parts.active))

    async def sweep() -> None:
        await keeper.sweep()
        await resync.look()

    return sweep


async def _median_ms(work: Work) -> float:
    times = []
    for _ in range(ROUNDS):
        began = perf_counter()
        await work()
        times.append((perf_counter() - began) * 1000)
    return statistics.median(times)


def _memory_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("The kernel does not tell what this process used.")


if __name__ == "__main__":
    main()
