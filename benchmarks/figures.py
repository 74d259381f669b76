"""Samples of several subjects, and what is said about them. Plain arithmetic."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 2000
"""Bootstrap samples behind an interval: enough for two digits."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What one subject took: for each round, its values in milliseconds."""

    name: str
    rounds: tuple[tuple[float, ...], ...]

    @property
    def values(self) -> list[float]:
        """All values, in the order they were taken."""
        return [value for taken in self.rounds for value in taken]

    @property
    def median(self) -> float:
        """The median of all values."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """The smallest value that 95 of 100 do not exceed."""
        ordered = sorted(self.values)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Expected:
    """The limits that a comparison should keep; None where there is none."""

    ratio: float | None = None
    more_ms: float | None = None
    median_ms: float | None = None

    def __str__(self) -> str:
        """Say them in words; empty where there are none."""
        parts = (
            None if self.ratio is None else f"ratio ≤ {self.ratio:g}",
            None if self.more_ms is None else f"< {self.more_ms:g} ms more",
            None if self.median_ms is None else f"median < {self.median_ms:g} ms",
        )
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our samples beside those of another subject, taken in the same rounds."""

    title: str
    ours: Samples
    other: Samples
    expected: Expected
    is_paired: bool = False
    """Whether each round holds one value of each, taken right after each other: then medians are of the pairs' ratios and differences,
    and what makes some pairs slower than others is not in them."""

    @property
    def ratio(self) -> float:
        """Ours in terms of the other's."""
        return self._ratio_of(self._rounds)

    @property
    def more_ms(self) -> float:
        """Ours less the other's."""
        return self._more_of(self._rounds)

    @property
    def ratio_interval(self) -> tuple[float, float]:
        """Where the ratio lies with 95 % confidence."""
        return self._interval(self._ratio_of)

    @property
    def more_interval(self) -> tuple[float, float]:
        """Where the difference lies with 95 % confidence."""
        return self._interval(self._more_of)

    @property
    def is_kept(self) -> bool:
        """Whether all limits are kept by the medians."""
        limits = self.expected
        return (
            (limits.ratio is None or self.ratio <= limits.ratio)
            and (limits.more_ms is None or self.more_ms < limits.more_ms)
            and (limits.median_ms is None or self.ours.median < limits.median_ms)
        )

    @property
    def _rounds(self) -> Sequence[int]:
        return range(min(len(self.ours.rounds), len(self.other.rounds)))

    def _interval(self, figure: Callable[[Sequence[int]], float]) -> tuple[float, float]:
        """Draw rounds anew, again and again; both subjects of a round go together."""
        draw = random.Random(0)  # fixed, so that the same samples give the same interval
        rounds = self._rounds
        figures = sorted(figure(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
        return figures[round(0.025 * RESAMPLES)], figures[round(0.975 * RESAMPLES) - 1]

    def _ratio_of(self, rounds: Sequence[int]) -> float:
        if self.is_paired:
            return statistics.median(self.ours.rounds[at][0] / self.other.rounds[at][0] for at in rounds)
        return self._median(self.ours, rounds) / self._median(self.other, rounds)

    def _more_of(self, rounds: Sequence[int]) -> float:
        if self.is_paired:
            return statistics.median(self.ours.rounds[at][0] - self.other.rounds[at][0] for at in rounds)
        return self._median(self.ours, rounds) - self._median(self.other, rounds)

    @staticmethod
    def _median(samples: Samples, rounds: Sequence[int]) -> float:
        return statistics.median([value for at in rounds for value in samples.rounds[at]])
