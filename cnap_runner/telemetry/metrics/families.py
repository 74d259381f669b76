"""Figures as families of Prometheus's, under our prefix."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from cnap_runner.model.counts import Spread

PREFIX = "cnap_runner_"

Values = Iterable[tuple[tuple[str, ...], float]]
"""The labels' values with the figure for them."""


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """One figure that goes up and down."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def gauges(name: str, text: str, labels: tuple[str, ...], values: Values) -> GaugeMetricFamily:
    """Figures that go up and down, one for each combination of labels."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def counters(name: str, text: str, labels: tuple[str, ...], values: Values) -> CounterMetricFamily:
    """Figures that only grow, one for each combination of labels; ``_total`` is put behind the name."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def histogram(name: str, text: str, spread: Spread) -> HistogramMetricFamily:
    """How long something took."""
    bounds = [*(str(bound) for bound in spread.bounds), "+Inf"]
    buckets = [(bound, float(count)) for bound, count in zip(bounds, spread.up_to, strict=True)]
    return HistogramMetricFamily(PREFIX + name, text, buckets=buckets, sum_value=spread.seconds)
