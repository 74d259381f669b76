"""Containers measured now and then, on the fake backend."""

from __future__ import annotations

import pytest

from cnap_runner import AgentSpec, RunnerManager
from cnap_runner.errors import BackendError
from cnap_runner.model.figures import DiskMeasured
from cnap_runner.model.instance import InstanceRef, ResourceUsage
from cnap_runner.runner.metering.sampler import Sampler
from cnap_runner.testing.house import House


def spec(agent_id: str) -> AgentSpec:
    return AgentSpec(agent_id=agent_id, model="fake/demo")


@pytest.fixture
async def sampler(manager: RunnerManager) -> Sampler:
    for agent_id in ("alice", "bob"):
        await manager.create_runner(spec(agent_id))
        await manager.start_runner(agent_id)
    return manager._usable().metering.sampler


async def test_live_containers_are_measured_with_their_limits(manager: RunnerManager, sampler: Sampler) -> None:
    """Those that are stopped are not asked for, and the disk's free space is there."""
    await manager.stop_runner("bob")
    await sampler.measure()
    (alice,) = sampler.sample.instances
    assert alice.agent_id == "alice"
    assert alice.limits is not None
    assert alice.memory_limit == alice.limits.memory_bytes
    assert sampler.sample.disk_free
    assert sampler.sample.unmeasured == 0


async def test_one_that_cannot_be_measured_is_counted_and_the_others_are_measured(
    house: House, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have ended a moment ago, or its engine may be slow."""
    real = house.backend.usage
    failed: list[InstanceRef] = []

    async def usage(ref: InstanceRef) -> ResourceUsage:
        if not failed:
            failed.append(ref)
            raise BackendError("The engine has no time.")
        return await real(ref)

    monkeypatch.setattr(house.backend, "usage", usage)
    await sampler.measure()
    assert (len(sampler.sample.instances), sampler.sample.unmeasured) == (1, 1)


async def test_the_cpu_time_of_all_containers_only_grows(
    house: House, manager: RunnerManager, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the end of one and the beginning of another; what was used before the first look does not count."""
    used = {"alice": 100.0, "bob": 50.0}

    async def usage(ref: InstanceRef) -> ResourceUsage:
        agent_id = house.backend._instances[ref.instance_id].spec.agent_id
        return ResourceUsage(1, 2, cpu_seconds=used[agent_id], pids=1)

    monkeypatch.setattr(house.backend, "usage", usage)
    await sampler.measure()
    assert sampler.sample.cpu_seconds == 0
    used["alice"] = 103.0
    await sampler.measure()
    assert sampler.sample.cpu_seconds == 3
    await manager.stop_runner("bob")
    await manager.start_runner("bob")
    used["bob"] = 2.0
    await sampler.measure()
    assert sampler.sample.cpu_seconds == 5


async def test_files_of_deleted_agents_are_not_shown(manager: RunnerManager) -> None:
    """What was measured of them is remembered for a while, in case that they come back."""
    await manager.create_runner(spec("alice"))
    disks = [DiskMeasured("alice", 1, 2), DiskMeasured("gone", 1, 2)]
    sampler = Sampler(manager._usable().install, lambda: disks)
    await sampler.measure()
    assert [disk.agent_id for disk in sampler.sample.disks] == ["alice"]
