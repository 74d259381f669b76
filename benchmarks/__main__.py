"""``python -m benchmarks``: measures, prints a table, keeps the raw values in ``benchmarks/results/``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import anyio

from benchmarks import cold_start, delta_latency, short_turn
from benchmarks.figures import Comparison
from benchmarks.machine import Machine, load, this_machine, warning
from benchmarks.report import Report
from benchmarks.stage import open_stage
from benchmarks.turns import pair
from cnap_runner.errors import RunnerError

Benchmark = Callable[[int], Awaitable[list[Comparison]]]

BENCHMARKS: Mapping[str, Benchmark] = {
    "cold-start": cold_start.measure,
    "short-turn": short_turn.measure,
    "fragment-heard": delta_latency.measure,
}


def main() -> int:
    """Run what was asked for; the exit code is 1 where nothing could be measured, whatever the figures are."""
    options = _parser().parse_args()
    try:
        reports = anyio.run(_measure, options.only or list(BENCHMARKS), options.rounds)
    except RunnerError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    for report in reports:
        print(f"{report.text()}\n\nRaw values: benchmarks/results/{report.save().name}\n")
        if options.write_docs:
            report.write_docs()
    return 0


async def _measure(names: list[str], rounds: int) -> list[Report]:
    load_before = load()
    told = warning(load_before)
    if told is not None:
        sys.stderr.write(f"{told}\n")
    machine = await _machine()
    return [
        Report(name, datetime.now(UTC), machine, load_before, told, tuple(await BENCHMARKS[name](rounds)))
        for name in names
    ]


async def _machine() -> Machine:
    """Describe the machine with the versions that are really used; the boot it takes warms the disk's cache up as well."""
    async with open_stage() as stage, pair(stage, "versions") as both:
        engine = await stage.manager.check_engine()
        return this_machine(engine=engine.version, opencode=await both.bare.version())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks", description="What this package costs, side by side with doing without it."
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="rounds per benchmark; 10 is the least that says anything"
    )
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), help="may be given several times")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/benchmarks.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
