"""Rounds in which all subjects take their turn, in alternating order, so that drift of the machine hits them alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from benchmarks.figures import Samples

Subject = Callable[[], Awaitable[Sequence[float]]]
"""Does its work once and returns what it took, in milliseconds: one value, or one for each thing it saw."""

REST_SECONDS = 0.1
"""Between two measurements, for what the one before leaves behind: OpenCode tidies up after a turn, the engine after a container."""


async def alternate(
    title: str, subjects: Mapping[str, Subject], *, rounds: int, warm_ups: int = 1
) -> dict[str, Samples]:
    """Measure all subjects in each round, forwards in even and backwards in odd ones. Warm-ups are the same and do not count."""
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in subjects}
    for number in range(-warm_ups, rounds):
        names = list(subjects) if number % 2 == 0 else list(subjects)[::-1]
        for name in names:
            values = await subjects[name]()
            if number >= 0:
                taken[name].append(tuple(values))
            await anyio.sleep(REST_SECONDS)
        _show(title, max(number + 1, 0), rounds)
    return {name: Samples(name, tuple(values)) for name, values in taken.items()}


class Stopwatch:
    """Milliseconds since it was made, by the clock that all processes of one machine share."""

    def __init__(self) -> None:
        self._began = time.monotonic_ns()

    def read(self) -> float:
        """Give the time that has gone by."""
        return (time.monotonic_ns() - self._began) / 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took."""

    wall_ms: float
    cpu_ms: float
    """Of this process, all its threads together."""


class Meter:
    """What was taken since it was made."""

    def __init__(self) -> None:
        self._cpu_began = time.process_time_ns()
        self._watch = Stopwatch()

    def read(self) -> Cost:
        """Give what was taken so far."""
        return Cost(self._watch.read(), (time.process_time_ns() - self._cpu_began) / 1e6)


def _show(title: str, done: int, rounds: int) -> None:
    """Say on a terminal how far it is, on one line; elsewhere only that it is done."""
    is_last = done == rounds
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{title}: round {done} of {rounds}" + ("\n" if is_last else ""))
        sys.stderr.flush()
    elif is_last:
        sys.stderr.write(f"{title}: {rounds} rounds\n")
