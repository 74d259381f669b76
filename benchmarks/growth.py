"""``python -m benchmarks.growth``: how a manager's own work grows with the agents it knows. Needs no engine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.growth_at import LIVE, Size
from benchmarks.machine import load, this_machine, warning
from benchmarks.report import DOCS, RESULTS, write_section

SIZES = (100, 300, 1000, 3000, 10000)
PROMISED = 1000
"""The number of known agents that the limits below are promised for."""
PLOT = DOCS.parent / "growth.svg"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured."""

    field: str
    title: str
    unit: str
    limit: float


FIGURES = (
    Figure("sweep_ms", "sweep", "ms", 50),
    Figure("scrape_ms", "metrics scrape", "ms", 50),
    Figure("ps_ms", "ps", "ms", 50),
    Figure("start_ms", "start-up", "ms", 2000),
    Figure("memory_mb", "memory", "MB", 200),
)


def main() -> int:
    """Measure all sizes, print a table, keep the values; the exit code is 1 where a limit is not kept."""
    options = _parser().parse_args()
    load_before = load()
    told = warning(load_before)
    sizes = [_measure(known) for known in options.agents]
    text = _text(sizes, load_before, told)
    at = datetime.now(UTC)
    print(f"{text}\n\nRaw values: benchmarks/results/{_save(sizes, at).name}")
    if options.write_docs:
        write_section("growth", text)
        _plot(sizes, PLOT)
    return 0 if all(_is_kept(figure, size) for size in sizes for figure in FIGURES) else 1


def _measure(known: int) -> Size:
    command = [sys.executable, "-m", "benchmarks.growth_at", str(known)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Size(**json.loads(done.stdout.splitlines()[-1]))


def _is_kept(figure: Figure, size: Size) -> bool:
    return size.known > PROMISED or getattr(size, figure.field) < figure.limit


def _text(sizes: Sequence[Size], load_before: float, told: str | None) -> str:
    machine = this_machine(engine="", opencode="")
    where = f"{machine.cores} cores ({machine.processor}), Linux {machine.kernel}, Python {machine.python}"
    when = f"Measured {datetime.now(UTC):%Y-%m-%d} on {where}; load before it {load_before:.2f}."
    return "\n\n".join([when, *([f"**{told}**"] if told else []), _table(sizes)])


def _table(sizes: Sequence[Size]) -> str:
    head = ("known agents", *(figure.title for figure in FIGURES))
    limits = (f"limit at {PROMISED}", *(f"{figure.limit:g} {figure.unit}" for figure in FIGURES))
    rows = [head, tuple("---" for _ in head), limits]
    rows += [(str(size.known), *(_cell(figure, size) for figure in FIGURES)) for size in sizes]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(figure: Figure, size: Size) -> str:
    text = f"{getattr(size, figure.field):.0f} {figure.unit}"
    return text if _is_kept(figure, size) else f"**{text}**"


def _save(sizes: Sequence[Size], at: datetime) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{at:%Y%m%dT%H%M%SZ}-growth.json"
    path.write_text(json.dumps([asdict(size) for size in sizes], indent=1) + "\n", encoding="utf-8")
    return path


def _plot(sizes: Sequence[Size], path: Path) -> None:
    """Draw times and memory over the number of known agents, both growing by factors."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "cnap-runner"  # the same values give the same file
    from matplotlib import pyplot as plt

    known = [size.known for size in sizes]
    drawing, (times, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for figure in FIGURES[:-1]:
        times.plot(known, [getattr(size, figure.field) for size in sizes], marker="o", label=figure.title)
    times.axhline(FIGURES[0].limit, color="grey", linestyle="--", linewidth=0.8, label=f"50 ms, promised at {PROMISED}")
    times.set(xscale="log", yscale="log", xlabel=f"known agents, {LIVE} of them live", ylabel="ms")
    times.legend(fontsize="small")
    memory.plot(known, [size.memory_mb for size in sizes], marker="o", color="black")
    memory.axhline(FIGURES[-1].limit, color="grey", linestyle="--", linewidth=0.8)
    memory.set(xscale="log", ylim=(0, 220), xlabel="known agents", ylabel="memory of the process, MB")
    for axes in (times, memory):
        axes.axvline(PROMISED, color="grey", linestyle=":", linewidth=0.8)
    drawing.savefig(path, metadata={"Date": None})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.growth", description="What one manager costs, over known agents.")
    parser.add_argument("--agents", type=int, nargs="+", default=list(SIZES), help="numbers of known agents")
    parser.add_argument("--write-docs", action="store_true", help="put table and plot into docs/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
