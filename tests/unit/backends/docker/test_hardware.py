"""Runtime and hardware: what is refused, and how it is said to the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.backends.docker.address import engine_address
from cnap_runner.backends.docker.facts import EngineFacts, engine_facts
from cnap_runner.backends.docker.hardware import hardware_options, has_layer_quota
from cnap_runner.errors import InvalidInput
from cnap_runner.model.hardware import Hardware
from cnap_runner.model.instance import InstanceSpec, Limits

HERE = engine_address("unix:///var/run/docker.sock")
FAR = engine_address("tcp://far.example:2375")
SPEC = InstanceSpec(
    install_id="inst",
    agent_id="alice",
    instance_id="i-1",
    generation=1,
    spec_hash="abc",
    image="cnap-runner:latest",
    limits=Limits(memory_bytes=1 << 30, cpus=1.0, pids=100),
    volumes=(),
)


def facts(**info: Any) -> EngineFacts:
    return engine_facts({"Runtimes": {"runc": {}, "runsc": {}}, **info}, api_version="1.41")


def options(spec: InstanceSpec = SPEC, *, engine: EngineFacts | None = None, **hardware: Any) -> dict[str, Any]:
    return hardware_options(replace(spec, hardware=Hardware(**hardware)), engine or facts(), HERE)


def test_nothing_asked_is_nothing_said() -> None:
    """The engine's defaults stay."""
    assert options() == {"Ulimits": [], "Devices": []}


def test_what_is_asked_is_said_in_the_engines_words() -> None:
    """Sizes in bytes, limits by name, all GPUs as -1, devices without the right to make others."""
    said = options(
        replace(SPEC, runtime="runsc"),
        engine=facts(DiscoveredDevices=[{"ID": "vendor.example/gpu=0"}]),
        shm_bytes=64 << 20,
        ulimits={"nofile": (1, 2), "core": (-1, -1)},
        gpus=-1,
        devices=("/dev/null",),
    )

    assert said["Runtime"] == "runsc"
    assert said["ShmSize"] == 64 << 20
    assert said["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}, {"Name": "core", "Soft": -1, "Hard": -1}]
    assert said["DeviceRequests"] == [{"Count": -1, "Capabilities": [["gpu"]]}]
    assert said["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/null", "CgroupPermissions": "rw"}]


def test_an_unknown_runtime_is_refused_with_those_that_are_known() -> None:
    """Before anything is made."""
    with pytest.raises(InvalidInput, match="'kata'; it knows runc, runsc"):
        options(replace(SPEC, runtime="kata"))


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/no-such-device", "dev/null", "/dev"])
def test_what_is_no_device_is_refused(path: str) -> None:
    """A file or folder would be shown to the agent otherwise, or the start would fail."""
    with pytest.raises(InvalidInput, match="no device of this host"):
        options(devices=(path,))


def test_devices_of_another_machine_are_that_engines_to_judge() -> None:
    """They cannot be looked at from here."""
    said = hardware_options(replace(SPEC, hardware=Hardware(devices=("/dev/far",))), facts(), FAR)

    assert said["Devices"][0]["PathOnHost"] == "/dev/far"


def test_gpus_are_refused_where_the_engine_offers_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NVIDIA's toolkit beside the engine counts, though the engine does not speak of it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match="no GPUs"):
        options(gpus=1)
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.touch(mode=0o755)

    assert options(gpus=1)["DeviceRequests"][0]["Count"] == 1


@pytest.mark.parametrize(
    ("storage", "has_quota"),
    [
        ({"Driver": "btrfs"}, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]}, False),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]], "DockerRootDir": "/proc"}, False),
    ],
)
def test_a_layers_quota_is_said_only_where_the_storage_has_one(storage: dict[str, Any], *, has_quota: bool) -> None:
    """Elsewhere the engine would refuse the whole container."""
    assert has_layer_quota(facts(**storage)) is has_quota
    assert ("StorageOpt" in options(engine=facts(**storage), disk_bytes=1 << 30)) is has_quota
