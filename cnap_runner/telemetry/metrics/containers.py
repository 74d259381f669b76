"""What containers and files take, against what they may: over all, and by agent where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client.core import Metric

from cnap_runner.model.figures import DiskMeasured, Measured, Sample
from cnap_runner.telemetry.metrics.families import counters, gauge, gauges


def of_containers(sample: Sample, now: datetime) -> Iterator[Metric]:
    """Show sums over all live containers, and of each limit how near the nearest comes to it."""
    if sample.at is None:
        return
    live, disks = sample.instances, sample.disks
    memory = [(each.usage.memory_bytes, each.memory_limit) for each in live]
    pids = [(each.usage.pids, each.limits.pids if each.limits else None) for each in live]
    files = [(disk.used, disk.quota) for disk in disks]
    yield gauge("sample_age_seconds", "Since the containers were measured.", (now - sample.at).total_seconds())
    yield gauge("containers_measured", "Live containers that were measured.", len(live))
    yield gauge("containers_unmeasured", "Live containers that could not be measured.", sample.unmeasured)
    yield gauge("containers_memory_bytes", "Memory of all containers.", _used(memory))
    yield gauge("containers_memory_limit_bytes", "Their limits, summed.", _allowed(memory))
    yield gauge("containers_memory_highest_ratio", "The highest share of its limit that one uses.", _highest(memory))
    text = "CPU time of all containers since the measuring began."
    yield counters("containers_cpu_seconds", text, (), [((), sample.cpu_seconds)])
    cpus = sum(each.limits.cpus for each in live if each.limits)
    yield gauge("containers_cpu_limit_cores", "CPUs they may use, summed.", cpus)
    yield gauge("containers_pids", "Processes and threads of all containers.", _used(pids))
    yield gauge("containers_pids_limit", "Their limits, summed.", _allowed(pids))
    yield gauge("containers_pids_highest_ratio", "The highest share of its limit that one uses.", _highest(pids))
    yield gauge("agents_disk_bytes", "Files of the agents this manager measured.", _used(files))
    yield gauge("agents_disk_quota_bytes", "Their quotas, summed.", _allowed(files))
    yield gauge("agents_disk_highest_ratio", "The highest share of its quota that one uses.", _highest(files))
    if sample.disk_free is not None:
        yield gauge("data_disk_free_bytes", "Left on the data folder's disk.", sample.disk_free)


def of_agents(sample: Sample) -> Iterator[Metric]:
    """Show each agent's own figures, under its id."""
    live, disks = sample.instances, sample.disks
    yield _each("agent_memory_bytes", "Memory of an agent's container.", live, lambda it: it.usage.memory_bytes)
    yield _each("agent_memory_limit_bytes", "Its limit.", live, lambda it: it.memory_limit)
    cpu = [((each.agent_id,), each.usage.cpu_seconds) for each in live]
    yield counters("agent_cpu_seconds", "CPU time of an agent's present container.", ("agent",), cpu)
    yield _each("agent_cpu_limit_cores", "CPUs it may use.", live, lambda it: it.limits.cpus if it.limits else None)
    yield _each("agent_pids", "Processes and threads of an agent's container.", live, lambda it: it.usage.pids)
    yield _each("agent_pids_limit", "Their limit.", live, lambda it: it.limits.pids if it.limits else None)
    yield _of_disks("agent_disk_bytes", "Files of an agent.", disks, lambda disk: disk.used)
    yield _of_disks("agent_disk_quota_bytes", "Its quota.", disks, lambda disk: disk.quota)


def _used(pairs: Iterable[tuple[int, int | None]]) -> int:
    return sum(used for used, _ in pairs)


def _allowed(pairs: Iterable[tuple[int, int | None]]) -> int:
    return sum(limit for _, limit in pairs if limit)


def _highest(pairs: Iterable[tuple[int, int | None]]) -> float:
    return max((used / limit for used, limit in pairs if limit), default=0.0)


def _each(name: str, text: str, live: Iterable[Measured], value: Callable[[Measured], float | None]) -> Metric:
    told = [((each.agent_id,), value(each)) for each in live]
    return gauges(name, text, ("agent",), [(labels, number) for labels, number in told if number is not None])


def _of_disks(name: str, text: str, disks: Iterable[DiskMeasured], value: Callable[[DiskMeasured], int]) -> Metric:
    return gauges(name, text, ("agent",), [((disk.agent_id,), value(disk)) for disk in disks])
