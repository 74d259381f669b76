"""``python -m benchmarks.idle``: what a manager costs that has nothing to do: its CPU time, over many minutes."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import anyio

from benchmarks.crowd import gather
from benchmarks.machine import load
from benchmarks.report import write_section
from benchmarks.stage import open_stage
from cnap_runner.model.agent import Life

KNOWN, LIVE = 50, 20
LIMIT_PERCENT = 0.5
SETTLING_SECONDS = 10.0
"""Before the first look at the clock: what a manager does when it begins is no idling."""


def main() -> int:
    """Wait, print the share of one core; the exit code is 1 where the limit is not kept."""
    options = _parser().parse_args()
    load_before = load()
    percent = anyio.run(_measure, options.minutes, options.real)
    live = f"{options.real} of them in real containers, frozen" if options.real else f"{LIVE} of them live"
    text = (
        f"Measured {datetime.now(UTC):%Y-%m-%d}: {options.minutes:g} minutes, {KNOWN} idle agents, {live}: **{percent:.2f} %** of one core "
        f"(limit: {LIMIT_PERCENT:g} %); load before it {load_before:.2f}."
    )
    print(text)
    if options.write_docs:
        write_section("idle-real" if options.real else "idle", text)
    return 0 if percent < LIMIT_PERCENT else 1


async def _measure(minutes: float, real: int) -> float:
    async with _real(real) if real else _crowd():
        await anyio.sleep(SETTLING_SECONDS)
        began, used = monotonic(), _cpu_seconds()
        await anyio.sleep(minutes * 60)
        return 100 * (_cpu_seconds() - used) / (monotonic() - began)


@asynccontextmanager
async def _crowd() -> AsyncIterator[None]:
    """Have a manager with idle agents on the backend in memory; the keeper freezes them after ``pause_after``, and stops none."""
    with tempfile.TemporaryDirectory(prefix="cnap-bench-") as name:
        crowd = await gather(Path(name) / "data", known=KNOWN, live=LIVE)
        async with crowd.manager():
            yield


@asynccontextmanager
async def _real(live: int) -> AsyncIterator[None]:
    """Have a manager with idle agents, some of them with real containers, which are frozen and never stopped."""
    async with open_stage(max_containers=live) as stage:
        for number in range(KNOWN):
            spec = stage.spec(f"idle-{number:02}")
            await stage.manager.create_runner(spec.model_copy(update={"life": Life(idle_timeout=timedelta(days=1))}))
        for number in range(live):
            await stage.manager.start_runner(f"idle-{number:02}")
            await stage.manager.pause_runner(f"idle-{number:02}")
        yield


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.idle", description="The CPU time of a manager with nothing to do.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long; 60 unless told")
    parser.add_argument("--real", type=int, default=0, help="so many real containers, instead of those in memory")
    parser.add_argument("--write-docs", action="store_true", help="put the figure into docs/benchmarks.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
