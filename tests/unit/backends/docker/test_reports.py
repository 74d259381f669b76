"""What the engine says, read. The answers are those of Engine 20.10, shortened."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cnap_runner.backends.docker.reports import event, held_memory, listed, observation, resource_usage
from cnap_runner.model.instance import (
    InstanceEventKind,
    InstanceRef,
    InstanceSpec,
    InstanceStatus,
    Limits,
    ResourceUsage,
)

SPEC = InstanceSpec(
    install_id="inst",
    agent_id="alice",
    instance_id="i-1",
    generation=3,
    spec_hash="abc",
    image="x",
    limits=Limits(memory_bytes=1, cpus=1, pids=1),
    volumes=(),
)
NEVER = "0001-01-01T00:00:00Z"


def entry(state: str, **said: Any) -> dict[str, Any]:
    """One line of the engine's list of containers."""
    port = {"IP": "127.0.0.1", "PrivatePort": 4096, "PublicPort": 32768, "Type": "tcp"}
    networks = {"inst": {"IPAddress": "172.26.0.3"}}
    return {
        "Id": "c0ffee",
        "Labels": SPEC.identity_labels(),
        "State": state,
        "Status": "Up 3 minutes",
        "Ports": [port],
        "NetworkSettings": {"Networks": networks},
        **said,
    }


def container(status: str, **state: Any) -> dict[str, Any]:
    return {
        "Id": "c0ffee",
        "Config": {"Labels": SPEC.identity_labels()},
        "State": {
            "Status": status,
            "ExitCode": 0,
            "OOMKilled": False,
            "StartedAt": NEVER,
            "FinishedAt": NEVER,
            **state,
        },
        "NetworkSettings": {"Ports": {"4096/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}]}},
    }


def test_a_running_container_is_whole() -> None:
    """Identity from labels, address from the published port, times with their zone."""
    seen = observation(container("running", StartedAt="2026-01-02T03:04:05.123456789Z"))

    assert seen.ref == InstanceRef("i-1", "c0ffee")
    assert (seen.install_id, seen.agent_id, seen.generation, seen.spec_hash) == ("inst", "alice", 3, "abc")
    assert seen.endpoint == "http://127.0.0.1:32768"
    assert seen.started_at == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert (seen.exit_code, seen.finished_at) == (None, None)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("created", InstanceStatus.CREATED),
        ("running", InstanceStatus.RUNNING),
        ("restarting", InstanceStatus.RUNNING),
        ("paused", InstanceStatus.PAUSED),
        ("exited", InstanceStatus.EXITED),
        ("dead", InstanceStatus.EXITED),
        ("removing", InstanceStatus.EXITED),
    ],
)
def test_each_state_of_the_engine_is_one_of_ours(said: str, status: InstanceStatus) -> None:
    """What is neither coming nor alive has ended."""
    assert observation(container(said)).status is status


def test_a_container_that_publishes_nothing_is_reached_by_its_own_address() -> None:
    """On the closed network; one whose port is published but not there yet has no endpoint."""
    said = container("running")
    networks = {"cnap": {"IPAddress": "172.19.0.2"}}
    said["NetworkSettings"] = {"Ports": {}, "Networks": networks}

    closed = observation({**said, "HostConfig": {"PortBindings": {}}})
    unready = observation({**said, "HostConfig": {"PortBindings": {"4096/tcp": [{}]}}})

    assert (closed.address, closed.endpoint) == ("172.19.0.2", "http://172.19.0.2:4096")
    assert (unready.address, unready.endpoint) == ("172.19.0.2", None)


def test_an_ended_container_says_how() -> None:
    """Exit code, end and the kernel's part in it; no address any more."""
    seen = observation(container("exited", ExitCode=137, OOMKilled=True, FinishedAt="2026-01-02T03:04:05Z"))

    assert (seen.exit_code, seen.is_oom_killed, seen.endpoint) == (137, True, None)
    assert seen.finished_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_death_is_read_with_its_exit_code() -> None:
    """Who died, when, and how."""
    attributes = {**SPEC.identity_labels(), "exitCode": "137", "image": "x"}
    told = event({"Action": "die", "Actor": {"Attributes": attributes}, "timeNano": 1_700_000_000_123_456_789})

    assert told is not None
    assert (told.kind, told.instance_id, told.agent_id, told.exit_code) == (InstanceEventKind.DIED, "i-1", "alice", 137)
    assert told.at == datetime.fromtimestamp(1_700_000_000, UTC).replace(microsecond=123456)


def test_what_says_nothing_new_is_no_event() -> None:
    """A command run inside is told by the engine as well."""
    assert event({"Action": "exec_start: sh", "Actor": {"Attributes": {}}, "timeNano": 1}) is None


@pytest.mark.parametrize("name", ["total_inactive_file", "inactive_file"])
def test_memory_is_told_without_what_can_be_taken_back(name: str) -> None:
    """The page cache has one name on cgroup v1 and another on v2."""
    stats = {
        "memory_stats": {"usage": 100, "limit": 1000, "stats": {name: 30}},
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "pids_stats": {"current": 7},
    }

    assert resource_usage(stats) == ResourceUsage(memory_bytes=70, memory_limit_bytes=1000, cpu_seconds=2.5, pids=7)


@pytest.mark.parametrize("prefix", ["total_", ""])
def test_memory_that_is_held_is_all_but_the_page_cache(prefix: str) -> None:
    """A lower limit takes the cache away and ends nothing; what does not live holds nothing."""
    details = {f"{prefix}active_file": 20, f"{prefix}inactive_file": 30}

    assert held_memory({"memory_stats": {"usage": 100, "stats": details}}) == 50
    assert held_memory({"memory_stats": {}}) == 0


def test_nothing_is_measured_of_what_does_not_live() -> None:
    """The engine answers with empty figures for an ended container; they are not taken for zero use."""
    assert resource_usage({"memory_stats": {}, "cpu_stats": {"cpu_usage": {"total_usage": 0}}}) is None


def test_a_listed_container_that_runs_is_whole() -> None:
    """A list says who it is and where its server listens; when it started only inspection knows."""
    seen = listed(entry("running"))

    assert seen is not None
    assert seen.ref == InstanceRef("i-1", "c0ffee")
    assert (seen.install_id, seen.agent_id, seen.generation, seen.spec_hash) == ("inst", "alice", 3, "abc")
    assert (seen.status, seen.endpoint, seen.address) == (
        InstanceStatus.RUNNING,
        "http://127.0.0.1:32768",
        "172.26.0.3",
    )
    assert (seen.exit_code, seen.started_at) == (None, None)


def test_a_listed_container_that_ended_says_how() -> None:
    """The exit code stands in words of the list; ports and addresses are not its own any more."""
    seen = listed(entry("exited", Status="Exited (137) 3 minutes ago"))

    assert seen is not None
    assert (seen.status, seen.exit_code, seen.endpoint, seen.address) == (InstanceStatus.EXITED, 137, None, None)


def test_a_listed_container_without_a_port_has_to_be_inspected() -> None:
    """On the closed network there is none; on the open one it may not be published yet. A list does not tell which."""
    assert listed(entry("running", Ports=[{"PrivatePort": 4096, "Type": "tcp"}])) is None
    assert listed(entry("created", Ports=[], Status="Created")) is not None
