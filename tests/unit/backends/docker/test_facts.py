"""What an engine can do, and what is refused where it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from cnap_runner.backends.docker.address import engine_address
from cnap_runner.backends.docker.facts import EngineFacts, engine_facts
from cnap_runner.errors import InvalidInput
from cnap_runner.model.instance import Limits

HERE = engine_address("unix:///var/run/docker.sock")
LIMITS = Limits(memory_bytes=1 << 30, cpus=2.0, pids=100)


def facts(**info: Any) -> EngineFacts:
    return engine_facts({"ServerVersion": "20.10.24", "NCPU": 2, "MemTotal": 4 << 30, **info}, api_version="1.41")


def test_a_good_engine_has_no_problems() -> None:
    """Nothing is complained about without reason."""
    assert facts().problems(HERE) == ()
    assert facts().fit(LIMITS) == LIMITS


@pytest.mark.parametrize(("field", "word"), [("MemoryLimit", "memory"), ("CpuCfsQuota", "CPU"), ("PidsLimit", "pids")])
def test_a_limit_that_is_not_kept_is_refused(field: str, word: str) -> None:
    """Nothing is weakened in silence: doctor says it, create refuses it."""
    rootless = facts(**{field: False})

    assert any(word in problem for problem in rootless.problems(HERE))
    with pytest.raises(InvalidInput, match=word):
        rootless.fit(LIMITS)


def test_more_processors_than_there_are_is_all_of_them() -> None:
    """The engine would refuse them."""
    assert facts().fit(Limits(memory_bytes=1 << 30, cpus=64, pids=10)).cpus == 2.0


def test_more_memory_than_there_is_is_refused() -> None:
    """The message names both sizes."""
    with pytest.raises(InvalidInput, match="has 4096 MiB of memory, less than the 8192 MiB"):
        facts().fit(Limits(memory_bytes=8 << 30, cpus=1, pids=10))


def test_remapped_users_are_refused() -> None:
    """Agents could not write their folders."""
    remapped = facts(SecurityOptions=["name=seccomp,profile=default", "name=userns"])

    assert any("userns-remap" in problem for problem in remapped.problems(HERE))
    with pytest.raises(InvalidInput, match="userns-remap"):
        remapped.fit(LIMITS)


@pytest.mark.parametrize(
    ("options", "manager", "inside"),
    [
        ([], (1000, 1001), (1000, 1001)),
        ([], (0, 0), (10000, 10000)),
        (["name=rootless"], (1000, 1000), (0, 0)),
        (["name=rootless"], (0, 0), (0, 0)),
    ],
)
def test_agents_are_whoever_owns_their_files_outside(
    options: list[str], manager: tuple[int, int], inside: tuple[int, int]
) -> None:
    """The manager's own uid, 10000 instead of root, and on a rootless engine the root that is the engine's user outside."""
    assert facts(SecurityOptions=options).user(uid=manager[0], gid=manager[1]) == inside


@pytest.mark.parametrize(("field", "word"), [("SwapLimit", "swap"), ("BridgeNfIptables", "br_netfilter")])
def test_lesser_trouble_is_told(field: str, word: str) -> None:
    """It is no reason to refuse, and one to tell."""
    lesser = facts(**{field: False})

    assert any(word in problem for problem in lesser.problems(HERE))
    assert lesser.fit(LIMITS) == LIMITS


def test_a_distant_engine_is_told() -> None:
    """Agents on another machine cannot be reached."""
    assert any("another machine" in problem for problem in facts().problems(engine_address("tcp://far.example:2375")))


@pytest.mark.parametrize("info", [{"SecurityOptions": ["name=rootless"]}, {"OperatingSystem": "Docker Desktop"}])
def test_a_closed_network_that_cannot_be_reached_is_told(info: dict[str, Any]) -> None:
    """Its containers' addresses exist in another network namespace or machine."""
    unreachable = facts(**info)

    assert unreachable.why_not_closed is not None
    assert any("none or allowlist" in problem for problem in unreachable.problems(HERE))
    assert facts().why_not_closed is None


def test_an_engine_without_a_filter_of_system_calls_is_told() -> None:
    """The default profile is part of what confines an agent."""
    assert any("seccomp" in problem for problem in facts(SecurityOptions=["name=cgroupns"]).problems(HERE))
    assert facts(SecurityOptions=["name=seccomp,profile=default"]).problems(HERE) == ()
