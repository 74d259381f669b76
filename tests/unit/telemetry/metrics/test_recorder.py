"""Counting on the way to the store."""

from datetime import timedelta

from cnap_runner.model.counts import CONTAINERS_CREATED, QUEUE_WAIT
from cnap_runner.telemetry.metrics.recorder import Metrics


def test_what_is_taken_is_counted_once() -> None:
    """And what could not be stored comes with the next taking."""
    metrics = Metrics()
    metrics.count(CONTAINERS_CREATED)
    taken = metrics.take()
    metrics.count(CONTAINERS_CREATED)
    metrics.put_back(taken)
    metrics.observe(QUEUE_WAIT, timedelta(seconds=1))
    again = metrics.take()
    assert again[CONTAINERS_CREATED.key()] == 2
    assert QUEUE_WAIT.in_counts(again).count == 1
    assert not metrics.take()


def test_the_age_of_the_watch_counts_from_its_last_sign() -> None:
    """Without any sign there is none: 0 would say that all is well."""
    now = [100.0]
    metrics = Metrics(clock=lambda: now[0])
    assert metrics.watch_age() is None
    metrics.watch_confirmed()
    now[0] = 130.0
    assert metrics.watch_age() == timedelta(seconds=30)
