"""What is counted over an install's life, whoever did it: names, meaning, and what an event adds to which count.

A count is a whole number under a text key (`Counter.key`, `Histogram.of`), so that the store can keep it and several processes can add to it.
Names follow Prometheus: what is shown is ``cnap_runner_`` + the name, and ``_total`` behind that of a counter.
"""

from __future__ import annotations

import math
import re
from collections import Counter as Sums
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate

from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.model.run import Outcome, RunRecord, RunResult

Counts = Mapping[str, int]
"""Key → how much of it."""

_BETWEEN = "|"
_MORE = "more"
_MOST = 10**12
"""Largest number that one run adds. Their sum stays far below what a database holds in a column."""
_LONGEST_NAME = 200
_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Counter:
    """Something that only grows."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    per_unit: int = 1
    """How many are counted for one of what is shown: 1,000,000 for a sum of money, which is kept in millionths."""
    known: tuple[str, ...] = ()
    """Values of its only label that are there from the beginning, with 0."""

    def key(self, *values: str) -> str:
        """Give the key of a count, one value for each label."""
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        return _BETWEEN.join((self.name, *(value.replace(_BETWEEN, "_") for value in values)))

    def in_counts(self, counts: Counts) -> dict[tuple[str, ...], float]:
        """Find what was counted, by the labels' values. One without labels is there from the beginning, with 0."""
        found: dict[tuple[str, ...], float] = {(value,): 0.0 for value in self.known} if self.labels else {(): 0.0}
        for key, value in counts.items():
            name, *values = key.split(_BETWEEN)
            if name == self.name and len(values) == len(self.labels):
                found[tuple(values)] = value / self.per_unit
        return found


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took, in classes."""

    name: str
    help: str
    bounds: tuple[float, ...]
    """Upper bounds of the classes, in seconds; what took longer is in one more class."""

    def of(self, took: timedelta) -> Counts:
        """Give what one more of it adds."""
        seconds = max(took.total_seconds(), 0.0)
        bound = next((str(bound) for bound in self.bounds if seconds <= bound), _MORE)
        return {self._key(bound): 1, self._key("ms"): round(seconds * 1000)}

    def in_counts(self, counts: Counts) -> Spread:
        """Find what was counted."""
        classes = [counts.get(self._key(bound), 0) for bound in (*map(str, self.bounds), _MORE)]
        return Spread(self.bounds, tuple(accumulate(classes)), counts.get(self._key("ms"), 0) / 1000)

    def _key(self, part: str) -> str:
        return _BETWEEN.join((self.name, part))


@dataclass(frozen=True, slots=True)
class Spread:
    """What a `Histogram` counted."""

    bounds: tuple[float, ...]
    up_to: tuple[int, ...]
    """How many took at most so long, for each bound; the last: all."""
    seconds: float
    """All together."""

    @property
    def count(self) -> int:
        """How many there were."""
        return self.up_to[-1]

    @property
    def average_ms(self) -> float:
        """How long one took; 0 where there was none."""
        return self.seconds * 1000 / self.count if self.count else 0.0


_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG = (*_SECONDS, 120.0, 300.0, 600.0, 1800.0, 3600.0)

RUNS = Counter("runs", "Runs that ended, by outcome.", ("outcome",), known=tuple(Outcome))
TOKENS = Counter("tokens", "Tokens of runs, as OpenCode counts them.", ("provider", "model", "kind"))
COST = Counter(
    "cost_dollars", "Cost of runs as OpenCode counts it; 0 where it knows no price.", ("provider", "model"), 1_000_000
)
ERRORS = Counter(
    "errors", "Errors that a run ended with, or that were raised before its prompt was sent, by code.", ("code",)
)
RECOVERIES = Counter("recoveries", "Agents that were brought back after trouble, by cause.", ("cause",))
CONTAINERS_CREATED = Counter("containers_created", "Containers created.")
EVENT_WATCH_CONNECTIONS = Counter("event_watch_connections", "Times that a watch over the engine's events connected.")
LOG_LINES_DROPPED = Counter(
    "log_lines_dropped", "Lines of agents' output that were not collected: too many at once, or no room to write them."
)

RUN_DURATION = Histogram("run_duration_seconds", "From a run's acceptance to its end.", _LONG)
TURN_DURATION = Histogram("turn_duration_seconds", "From the sending of a prompt to its end.", _LONG)
QUEUE_WAIT = Histogram("queue_wait_seconds", "From a run's acceptance to its turn.", _LONG)
START_DURATION = Histogram("container_start_duration_seconds", "From nothing to a ready server.", _SECONDS)
SWEEP_DURATION = Histogram(
    "sweep_duration_seconds", "One look of the keeper at all agents.", (0.005, 0.01, 0.025, 0.05, *_SECONDS)
)

COUNTERS = (RUNS, TOKENS, COST, ERRORS, RECOVERIES, CONTAINERS_CREATED, EVENT_WATCH_CONNECTIONS, LOG_LINES_DROPPED)
HISTOGRAMS = (RUN_DURATION, TURN_DURATION, QUEUE_WAIT, START_DURATION, SWEEP_DURATION)

STOPS = (
    DecisionKind.STOPPED,
    DecisionKind.STOPPED_IDLE,
    DecisionKind.YIELDED,
    DecisionKind.RECYCLED_AGE,
    DecisionKind.RECYCLED_MEMORY,
    DecisionKind.RECYCLED_CHANGE,
)
"""Decisions that end a container on purpose."""
FAILURES = (DecisionKind.START_FAILED, DecisionKind.DIED, DecisionKind.OOM_KILLED)
"""What is written down of a container that did not start, or ended by itself."""


def of_run(run: RunRecord, result: RunResult, *, models: Collection[str | None]) -> Counts:
    """Tell what the end of a run adds. ``run`` is its entry, ended; ``models`` are those that may be counted under their names."""
    sums: Sums[str] = Sums({RUNS.key(result.outcome.value): 1})
    sums.update(RUN_DURATION.of(result.duration))
    if run.sent_at is not None:
        if run.ended_at is not None:
            sums.update(TURN_DURATION.of(run.ended_at - run.sent_at))
        if result.error is not None and result.outcome is not Outcome.SUCCEEDED:
            sums.update({ERRORS.key(_word(result.error.code)): 1})
    sums.update(_of_usage(result, models))
    return sums


def _of_usage(result: RunResult, models: Collection[str | None]) -> Counts:
    """Only models that answered are counted under their names, and only those that were asked for: a server may name any, without end.

    The figures too are the server's, which its agent can take over: whatever they are, they must not keep the run from ending.
    """
    provider, _, model = _model_name(result.model, models).partition("/")
    usage = result.usage
    tokens = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.reasoning_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens,
    }
    counts = {TOKENS.key(provider, model, kind): min(number, _MOST) for kind, number in tokens.items() if number > 0}
    if counts and math.isfinite(usage.cost) and usage.cost > 0:
        counts[COST.key(provider, model)] = round(min(usage.cost * COST.per_unit, _MOST))
    return counts


def _model_name(given: str | None, models: Collection[str | None]) -> str:
    is_name = given in models and given is not None and len(given) <= _LONGEST_NAME and given.isprintable()
    return given if given is not None and is_name else "other/other"


def of_decision(decision: Decision) -> Counts:
    """Tell what a decision adds: one of its kind, under that name alone, and what its evidence tells."""
    counts = {decision.kind.value: 1}
    took = decision.evidence.get("took_seconds")
    if decision.kind is DecisionKind.STARTED and isinstance(took, int | float):
        counts.update(START_DURATION.of(timedelta(seconds=took)))
    if decision.kind is DecisionKind.RECOVERED:
        counts[RECOVERIES.key(_word(decision.evidence.get("cause")))] = 1
    return counts


def decided(counts: Counts, kinds: Sequence[DecisionKind]) -> int:
    """Tell how often one of these kinds was decided."""
    return sum(counts.get(kind.value, 0) for kind in kinds)


def _word(given: object) -> str:
    """A label's values must stay few: anything that is no plain word is ``other``."""
    return given if isinstance(given, str) and _WORD.fullmatch(given) else "other"
