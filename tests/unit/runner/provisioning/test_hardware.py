"""What an agent's instance is asked to get of its host, and what is refused before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.engine import Capabilities
from cnap_runner.model.hardware import Hardware
from cnap_runner.model.instance import Network
from cnap_runner.model.run import RunRequest
from cnap_runner.runner.provisioning.hardware import hardware_of, network_of, refuse_unable, runtime_of
from cnap_runner.settings import Settings
from cnap_runner.testing import FakeBackend

ABLE = Capabilities(**{field.name: True for field in fields(Capabilities)})
UNABLE = Capabilities(**{field.name: False for field in fields(Capabilities)})


def spec(**values: Any) -> AgentSpec:
    return AgentSpec(**{"agent_id": "alice", "model": "fake/demo", **values})


def test_what_an_agent_does_not_name_comes_from_the_settings() -> None:
    """Shared memory and the runtime have a default for the install; there are no other defaults."""
    settings = Settings(shm_mb=128, runtime="runsc")

    assert hardware_of(spec(), settings) == Hardware(shm_bytes=128 << 20)
    assert runtime_of(spec(), settings) == "runsc"
    assert runtime_of(spec(runtime="kata"), settings) == "kata"
    assert runtime_of(spec(), Settings()) is None


def test_an_agents_own_hardware_is_taken_over() -> None:
    """One number is both limits, all GPUs are -1, and the quota of its layer is the hard ceiling of its files."""
    resources = {
        "shm_mb": 256,
        "ulimits": {"nofile": 1024, "core": (0, -1)},
        "gpus": "all",
        "devices": ["/dev/kvm"],
        "disk_mb": 100,
    }

    assert hardware_of(spec(resources=resources), Settings(disk_ceiling_percent=150)) == Hardware(
        shm_bytes=256 << 20,
        ulimits={"core": (0, -1), "nofile": (1024, 1024)},
        gpus=-1,
        devices=("/dev/kvm",),
        disk_bytes=150 << 20,
    )


@pytest.mark.parametrize(
    ("mode", "network"), [("open", Network.OPEN), ("none", Network.CLOSED), ("allowlist", Network.CLOSED)]
)
def test_the_egress_mode_decides_the_network(mode: str, network: Network) -> None:
    """Only the open mode is on the network that reaches the world."""
    assert network_of(spec(egress={"mode": mode})) is network


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"egress": {"mode": "none"}}, "egress mode none"),
        ({"runtime": "runsc"}, "OCI runtime runsc"),
        ({"image": "python:3.12"}, "image of its own"),
        ({"resources": {"gpus": 1, "devices": ["/dev/kvm"]}}, "resources.gpus, resources.devices"),
        ({"resources": {"shm_mb": 64, "ulimits": {"core": 0}}}, "resources.shm_mb, resources.ulimits"),
    ],
)
def test_what_a_backend_can_never_give_is_refused(asked: dict[str, Any], words: str) -> None:
    """It is named; a backend that can give it hears of it; an agent that asks for nothing special runs anywhere."""
    with pytest.raises(InvalidInput, match=words):
        refuse_unable(spec(**asked), Settings(), UNABLE)
    refuse_unable(spec(**asked), Settings(), ABLE)
    refuse_unable(spec(), Settings(), UNABLE)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"resources": {"ulimits": {"nofile": (20, 10)}}}, "soft limit of ulimit 'nofile'"),
        ({"resources": {"ulimits": {"nofiles": 10}}}, "no ulimit 'nofiles'"),
        ({"resources": {"ulimits": {"nofile": 99999999999999999999}}}, "'nofile' is no number"),
        ({"resources": {"ulimits": {"nofile": -2}}}, "'nofile' is no number"),
        ({"resources": {"shm_mb": 1000, "memory_mb": 500}}, "1000 MiB of shared memory"),
        ({"image": ""}, "image is empty"),
        ({"image": " "}, "image is empty"),
    ],
)
def test_what_no_host_can_give_is_refused(asked: dict[str, Any], words: str) -> None:
    """When the agent is made, not when it is started."""
    with pytest.raises(InvalidInput, match=f"Agent alice: .*{words}"):
        refuse_unable(spec(**asked), Settings(), ABLE)


def test_a_runtime_of_the_settings_is_refused_too() -> None:
    """An operator who wants gVisor for all must not get the host's processes in silence."""
    with pytest.raises(InvalidInput, match="OCI runtime runsc"):
        refuse_unable(spec(), Settings(runtime="runsc"), UNABLE)


async def test_what_an_agent_asks_for_arrives_at_the_backend(house: Any, ask: Callable[..., RunRequest]) -> None:
    """Its runtime and hardware are part of what an instance is created as."""
    asked = spec(runtime="runsc", resources={"shm_mb": 256, "ulimits": {"nofile": 64}, "devices": ["/dev/kvm"]})
    async with house.manager() as manager:
        runner = await manager.create_runner(asked)
        await runner.run(ask("hello"))
        (instance,) = house.backend._instances.values()

    assert instance.spec.runtime == "runsc"
    assert instance.spec.hardware == Hardware(256 << 20, ulimits={"nofile": (64, 64)}, devices=("/dev/kvm",))


async def test_an_agent_that_the_backend_cannot_have_is_not_made_known(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one by one nor declared; nothing is stored."""
    monkeypatch.setattr(FakeBackend, "capabilities", UNABLE)
    async with house.manager() as manager:
        with pytest.raises(InvalidInput, match="OCI runtime"):
            await manager.create_runner(spec(runtime="runsc"))
        with pytest.raises(InvalidInput, match="OCI runtime"):
            await manager.apply([spec(agent_id="bob"), spec(runtime="runsc")])
        assert await manager.list_runners() == []
