"""Which run an agent was at, at a moment. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cnap_runner.model.run import RunRecord


@dataclass(frozen=True, slots=True)
class Span:
    """The time of one run: from when it was at the head of its agent's queue, its start of an instance included, to its end."""

    run_id: str
    begin: datetime
    end: datetime | None
    """None: it goes on."""

    def has(self, at: datetime) -> bool:
        """Whether a moment lies in it."""
        return self.begin <= at and (self.end is None or at <= self.end)


class Timeline:
    """The runs of one agent, which never overlap: turns of an agent run one at a time, in the order of the ledger."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        """``runs`` in any order. One that ended while it still waited for its place has no time of its own."""
        self._spans: list[Span] = []
        free_at: datetime | None = None
        for run in sorted(runs, key=lambda run: run.place):
            begin = run.created_at if free_at is None else max(run.created_at, free_at)
            if run.ended_at is None or run.ended_at > begin:
                self._spans.append(Span(run.run_id, begin, run.ended_at))
            if run.ended_at is None:
                break  # those behind it wait
            free_at = run.ended_at if free_at is None else max(free_at, run.ended_at)
        self._begins = [span.begin for span in self._spans]

    def run_at(self, at: datetime | None) -> str | None:
        """Name the run of a moment; None between runs, and where no time is known."""
        span = self._spans[index - 1] if at is not None and (index := bisect_right(self._begins, at)) else None
        return span.run_id if span is not None and at is not None and span.has(at) else None

    def span_of(self, run_id: str) -> Span | None:
        """Give the time of one run; None where it had none yet."""
        return next((span for span in self._spans if span.run_id == run_id), None)
