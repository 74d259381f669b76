"""One reading in which everything has a figure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from cnap_runner.model import counts
from cnap_runner.model.figures import DiskMeasured, Measured, Sample, Tally
from cnap_runner.model.instance import Limits, ResourceUsage
from cnap_runner.model.run import Outcome
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.telemetry.metrics.exposition import Reading

AT = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 1 << 20


def _measured(agent_id: str, memory_mb: int, *, limit_mb: int = 1000) -> Measured:
    limits = Limits(memory_bytes=limit_mb * MIB, cpus=2.0, pids=100)
    return Measured(agent_id, ResourceUsage(memory_mb * MIB, limit_mb * MIB, cpu_seconds=7.0, pids=10), limits)


def _reading(*, is_per_agent: bool = False) -> Reading:
    counted = {
        counts.RUNS.key(Outcome.SUCCEEDED.value): 3,
        counts.TOKENS.key("p", "m", "input"): 10,
        counts.COST.key("p", "m"): 250_000,
        counts.ERRORS.key("timed_out"): 1,
        counts.RECOVERIES.key("died"): 1,
        "started": 2,
        "oom_killed": 1,
        **counts.RUN_DURATION.of(timedelta(seconds=2)),
    }
    tally = Tally(
        runners={RunnerStatus.READY: 2, RunnerStatus.STOPPED: 5},
        runs={"queued": 1},
        tasks={"running": 1},
        managers={"keeper": 1},
        oldest_queued_at=AT - timedelta(seconds=9),
        counts=counted,
    )
    sample = Sample(
        at=AT - timedelta(seconds=4),
        instances=(_measured("alice", 100), _measured("bob", 900)),
        cpu_seconds=12.5,
        disks=(DiskMeasured("alice", 5, 10),),
        disk_free=77,
    )
    return Reading("inst", "1.0", AT, tally, sample, timedelta(seconds=3), 10, is_per_agent)


@pytest.fixture
def make_reading() -> Callable[..., Reading]:
    return _reading
