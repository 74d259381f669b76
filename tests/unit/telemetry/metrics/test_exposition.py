"""What Prometheus reads."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cnap_runner.errors import InvalidInput, StoreError
from cnap_runner.telemetry.metrics.exposition import InstallCollector, Reading
from cnap_runner.telemetry.metrics.server import serving

MIB = 1 << 20

MakeReading = Callable[..., Reading]


def scraped(source: Reading) -> dict[tuple[str, str], float]:
    """All samples of a scrape, by name and by the values of their labels, in the order of the labels' names."""
    registry = CollectorRegistry()
    registry.register(InstallCollector(lambda: source))
    text = generate_latest(registry).decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, ",".join(sample.labels.values())): sample.value for sample in found}


def test_a_scrape_tells_how_things_stand_and_what_was_counted(make_reading: MakeReading) -> None:
    """What has not happened yet is there with 0 wherever its labels are known, so that a rate is true from the first one on."""
    seen = scraped(make_reading())
    assert seen["cnap_runner_runners", "ready"] == 2
    assert seen["cnap_runner_runners", "failed"] == 0
    assert seen["cnap_runner_containers", ""] == 2
    assert seen["cnap_runner_queue_oldest_wait_seconds", ""] == 9
    assert seen["cnap_runner_event_watch_age_seconds", ""] == 3
    assert seen["cnap_runner_runs_total", "succeeded"] == 3
    assert seen["cnap_runner_runs_total", "failed"] == 0
    assert seen["cnap_runner_containers_failed_total", "oom_killed"] == 1
    assert seen["cnap_runner_tokens_total", "input,m,p"] == 10
    assert seen["cnap_runner_run_duration_seconds_bucket", "2.5"] == 1
    assert seen["cnap_runner_run_duration_seconds_bucket", "1.0"] == 0
    assert seen["cnap_runner_run_duration_seconds_count", ""] == 1


def test_containers_are_measured_against_their_limits(make_reading: MakeReading) -> None:
    """As sums, and by the one that is nearest to its limit: a sum hides it."""
    seen = scraped(make_reading())
    assert seen["cnap_runner_containers_memory_bytes", ""] == 1000 * MIB
    assert seen["cnap_runner_containers_memory_limit_bytes", ""] == 2000 * MIB
    assert seen["cnap_runner_containers_memory_highest_ratio", ""] == pytest.approx(0.9)
    assert seen["cnap_runner_containers_pids_highest_ratio", ""] == pytest.approx(0.1)
    assert seen["cnap_runner_agents_disk_highest_ratio", ""] == pytest.approx(0.5)
    assert seen["cnap_runner_containers_cpu_seconds_total", ""] == 12.5
    assert seen["cnap_runner_sample_age_seconds", ""] == 4


def test_agent_ids_are_labels_only_when_asked_for(make_reading: MakeReading) -> None:
    """Thousands of agents would be thousands of series each."""
    assert not [labels for _, labels in scraped(make_reading()) if "alice" in labels]
    seen = scraped(make_reading(is_per_agent=True))
    assert seen["cnap_runner_agent_memory_bytes", "bob"] == 900 * MIB
    assert seen["cnap_runner_agent_disk_bytes", "alice"] == 5


def test_a_store_that_cannot_be_read_disturbs_no_other_collector() -> None:
    """The scrape says so, instead of failing or telling zeros."""

    def fail() -> Reading:
        raise StoreError("The database failed.")

    registry = CollectorRegistry()
    registry.register(InstallCollector(fail))
    text = generate_latest(registry).decode()
    assert "cnap_runner_store_up 0.0" in text
    assert "cnap_runner_runners" not in text


async def test_a_port_of_another_program_is_named() -> None:
    """With the variable that chooses another one."""
    async with serving(CollectorRegistry(), 0) as port:
        with pytest.raises(InvalidInput, match=str(port)) as raised:
            async with serving(CollectorRegistry(), port):
                pass
    assert "CNAP_RUNNER_METRICS_PORT" in (raised.value.hint or "")
