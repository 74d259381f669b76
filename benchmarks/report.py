"""A measurement as people and programs read it: a table, a file of raw values, a section of docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.figures import Comparison, Samples
from benchmarks.machine import Machine

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures of {}: written by make bench -->", "<!-- end of figures of {} -->"


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement of one benchmark."""

    name: str
    at: datetime
    machine: Machine
    load_before: float
    warning: str | None
    comparisons: tuple[Comparison, ...]

    def table(self) -> str:
        """Give the figures as a table of Markdown."""
        head = (
            "what",
            "n",
            "cnap_runner: median, p95",
            "other: median, p95",
            "ratio (95 %)",
            "more (95 %)",
            "expected",
            "kept",
        )
        rows = [head, tuple("---" for _ in head), *(_row(comparison) for comparison in self.comparisons)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def text(self) -> str:
        """Give the table with all that it depends on."""
        when = f"Measured {self.at:%Y-%m-%d} on {self.machine}; load before it {self.load_before:.2f}."
        return "\n\n".join([when, *([f"**{self.warning}**"] if self.warning else []), self.table()])

    def save(self) -> Path:
        """Write all values to a new file of `RESULTS`."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.at:%Y%m%dT%H%M%SZ}-{self.name}.json"
        path.write_text(json.dumps(self._data(), indent=1) + "\n", encoding="utf-8")
        return path

    def write_docs(self) -> None:
        """Put the figures in place of this benchmark's in the docs; all around them stays."""
        write_section(self.name, self.text())

    def _data(self) -> dict[str, object]:
        return {
            "at": self.at.isoformat(),
            "machine": asdict(self.machine),
            "load_before": self.load_before,
            "comparisons": [_comparison(comparison) for comparison in self.comparisons],
        }


def write_section(name: str, text: str) -> None:
    """Put the figures of a benchmark in place of those in the docs; all around them stays."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        raise ValueError(f"{DOCS.name} lacks the lines {begin!r} and {end!r}.")
    DOCS.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _row(comparison: Comparison) -> Sequence[str]:
    low, high = comparison.ratio_interval
    least, most = comparison.more_interval
    return (
        comparison.title,
        str(len(comparison.ours.values)),
        f"{comparison.ours.median:.2f} ms, {comparison.ours.p95:.2f} ms",
        f"{comparison.other.median:.2f} ms, {comparison.other.p95:.2f} ms",
        f"{comparison.ratio:.3f} ({low:.3f} to {high:.3f})",
        f"{comparison.more_ms:+.2f} ms ({least:+.2f} to {most:+.2f})",
        str(comparison.expected),
        ("yes" if comparison.is_kept else "**no**") if str(comparison.expected) else "",
    )


def _comparison(comparison: Comparison) -> dict[str, object]:
    return {
        "title": comparison.title,
        "ratio": comparison.ratio,
        "ratio_95": comparison.ratio_interval,
        "more_ms": comparison.more_ms,
        "more_ms_95": comparison.more_interval,
        "is_paired": comparison.is_paired,
        "expected": str(comparison.expected),
        "is_kept": comparison.is_kept,
        "subjects": [_samples(comparison.ours), _samples(comparison.other)],
    }


def _samples(samples: Samples) -> dict[str, object]:
    return {"name": samples.name, "median_ms": samples.median, "p95_ms": samples.p95, "rounds_ms": samples.rounds}
