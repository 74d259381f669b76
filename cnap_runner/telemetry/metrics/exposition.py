"""An install's figures as Prometheus reads them. Loads its library, so only whoever shows metrics imports this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cnap_runner.errors import StoreError
from cnap_runner.model.answers import AnswerKind
from cnap_runner.model.counts import COUNTERS, FAILURES, HISTOGRAMS, STOPS, Counts, decided
from cnap_runner.model.figures import Sample, Tally
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.run import RunState
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.model.task import TaskState
from cnap_runner.telemetry.metrics.containers import of_agents, of_containers
from cnap_runner.telemetry.metrics.families import counters, gauge, gauges, histogram


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is shown at one scrape."""

    install_id: str
    version: str
    at: datetime
    tally: Tally
    sample: Sample
    watch_age: timedelta | None
    max_containers: int
    is_per_agent: bool
    """Whether agent ids are shown as labels."""


class InstallCollector(Collector):
    """Shows an install's figures as they are when they are asked for."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        """``read`` is called in whatever thread scrapes, may block for milliseconds, and may raise `StoreError`."""
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: registering must not read the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read and show. A store that cannot be read is a figure too, and disturbs no other collector of the registry."""
        try:
            reading = self._read()
        except StoreError:
            yield _store_up(is_up=False)
            return
        yield _store_up(is_up=True)
        yield from families(reading)


def families(reading: Reading) -> Iterator[Metric]:
    """Show one reading."""
    labels = (reading.install_id, reading.version)
    yield gauges("install_info", "Which install this is; always 1.", ("install", "version"), [(labels, 1)])
    yield from _now(reading)
    yield from _counted(reading.tally.counts)
    yield from of_containers(reading.sample, reading.at)
    if reading.is_per_agent:
        yield from of_agents(reading.sample)


def _store_up(*, is_up: bool) -> GaugeMetricFamily:
    return gauge("store_up", "Whether the install's database could be read.", int(is_up))


def _now(reading: Reading) -> Iterator[Metric]:
    """How things stand."""
    tally, at = reading.tally, reading.at
    waited = max((at - tally.oldest_queued_at).total_seconds(), 0.0) if tally.oldest_queued_at else 0.0
    yield _by("runners", "Agents, by their runner's status.", "status", tally.runners, known=RunnerStatus)
    yield gauge("containers", "Containers that take a place, paused ones too.", tally.containers)
    yield gauge("containers_max", "How many containers may live at the same time.", reading.max_containers)
    unfinished = [state for state in RunState if state is not RunState.ENDED]
    yield _by("runs_unfinished", "Runs that have not ended, by state.", "state", tally.runs, known=unfinished)
    yield gauge("queue_oldest_wait_seconds", "How long the oldest run without a turn has waited.", waited)
    text = "What agents asked and nobody has answered."
    yield _by("pending_answers", text, "kind", tally.pending_answers, known=AnswerKind)
    yield gauge("held_agents", "Agents that somebody holds.", tally.held_agents)
    yield _by("tasks", "Tasks of the controller, by state.", "state", tally.tasks, known=TaskState)
    yield _by("managers", "Managers of the install, by role.", "role", tally.managers)
    if reading.watch_age is not None:
        text = "Since this manager last saw that what it believes of the containers is true."
        yield gauge("event_watch_age_seconds", text, reading.watch_age.total_seconds())


def _counted(counts: Counts) -> Iterator[Metric]:
    """What was counted over the install's life."""
    for counter in COUNTERS:
        yield counters(counter.name, counter.help, counter.labels, counter.in_counts(counts).items())
    for each in HISTOGRAMS:
        yield histogram(each.name, each.help, each.in_counts(counts))
    for name, text, kinds in (
        ("containers_started", "Containers that became ready.", (DecisionKind.STARTED,)),
        ("containers_stopped", "Containers that were ended on purpose.", STOPS),
        ("errors_recovered", "Troubles of agents that were mended.", (DecisionKind.RECOVERED,)),
        ("retries", "Starts that were tried again.", (DecisionKind.RETRIED,)),
    ):
        yield counters(name, text, (), [((), decided(counts, kinds))])
    failed = [((kind.value,), decided(counts, (kind,))) for kind in FAILURES]
    yield counters("containers_failed", "Containers that did not start or ended by themselves.", ("cause",), failed)
    decisions = [((kind.value,), decided(counts, (kind,))) for kind in DecisionKind]
    yield counters("decisions", "What was decided about agents, as `explain` tells it.", ("kind",), decisions)


def _by(name: str, text: str, label: str, values: Mapping[Any, int], known: Iterable[Any] = ()) -> GaugeMetricFamily:
    """Figures by one label; the known values are there from the beginning, with 0."""
    told = dict.fromkeys(known, 0) | dict(values)
    return gauges(name, text, (label,), [((str(value),), number) for value, number in told.items()])
