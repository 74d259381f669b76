"""Metrics: what one manager counts, on its way to the store. Most is counted there already, with a run's end or a decision."""

from __future__ import annotations

import time
from collections import Counter as Sums
from collections.abc import Callable
from datetime import timedelta

from cnap_runner.model.counts import Counter, Counts, Histogram


class Metrics:
    """Counts until somebody takes what was counted. Used from one event loop; a call costs an addition."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Sums[str] = Sums()
        self._confirmed_at: float | None = None

    def count(self, counter: Counter, *values: str) -> None:
        """Count one, with a value for each of the counter's labels. The values of a label must be few."""
        self._counts[counter.key(*values)] += 1

    def observe(self, histogram: Histogram, took: timedelta) -> None:
        """Count one more of something that takes time."""
        self._counts.update(histogram.of(took))

    def watch_confirmed(self) -> None:
        """What is believed of the containers was just seen to be true: by an event of the engine, or by comparing all."""
        self._confirmed_at = self._clock()

    def watch_age(self) -> timedelta | None:
        """Tell how long ago that was; None: it never was. From any thread."""
        at = self._confirmed_at
        return None if at is None else timedelta(seconds=self._clock() - at)

    def take(self) -> Counts:
        """Give what was counted since the last taking, to be stored."""
        taken, self._counts = self._counts, Sums()
        return taken

    def put_back(self, counts: Counts) -> None:
        """Take back what could not be stored."""
        self._counts.update(counts)
