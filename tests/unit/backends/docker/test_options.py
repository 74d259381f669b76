"""What the engine is asked to create."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cnap_runner.backends.docker.options import container_config, container_name, limit_options
from cnap_runner.model.instance import LABEL_INSTALL, InstanceSpec, Limits, NetworkFacts, Volume, VolumeRole

SPEC = InstanceSpec(
    install_id="inst",
    agent_id="alice",
    instance_id="i-1",
    generation=3,
    spec_hash="abc",
    image="cnap-runner:latest",
    limits=Limits(memory_bytes=1 << 30, cpus=1.5, pids=100),
    volumes=tuple(Volume(role=role, source=Path("/data") / role) for role in VolumeRole),
    environment={"LANG": "C.UTF-8", "HOME": "/elsewhere"},
    labels={"team": "blue", LABEL_INSTALL: "stolen"},
)
OPEN = NetworkFacts(id="net", interface="br-net", gateway="172.18.0.1", subnet="172.18.0.0/16", is_internal=False)


def config(spec: InstanceSpec = SPEC) -> dict[str, Any]:
    return container_config(spec, limits=spec.limits, network=OPEN, user=(1000, 1001), hardware={})


def test_an_agent_is_confined() -> None:
    """No root, no capabilities, no new privileges, no writable root, and limits on all that can be used up."""
    made = config()
    host = made["HostConfig"]

    assert made["User"] == "1000:1001"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["Init"] is True
    assert host["Privileged"] is False
    assert (host["IpcMode"], host["CgroupnsMode"]) == ("private", "private")
    assert host["OomScoreAdj"] > 0
    assert (host["Memory"], host["MemorySwap"]) == (1 << 30, 1 << 30)
    assert (host["NanoCpus"], host["PidsLimit"]) == (1_500_000_000, 100)
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert not any("docker.sock" in mount["Source"] for mount in host["Mounts"])


def test_the_port_is_allocated_by_the_engine_on_loopback() -> None:
    """A port chosen here could be taken by somebody else until it is used."""
    assert config()["HostConfig"]["PortBindings"] == {"4096/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}


def test_secrets_are_kept_in_memory_for_the_agent_alone() -> None:
    """A tmpfs of the agent's user, filled from standard input, which ends with its first writer."""
    made = config()

    options = made["HostConfig"]["Tmpfs"]["/run/secrets"].split(",")
    assert {"uid=1000", "gid=1001", "mode=0700", "size=8m", "noexec"} <= set(options)
    assert made["OpenStdin"] is True
    assert made["StdinOnce"] is True
    assert "CNAP_SECRETS=stdin" in made["Env"]


def test_settings_are_read_only_and_the_rest_is_not() -> None:
    """An agent cannot change its own settings, whatever the spec says."""
    mounts = {mount["Target"]: mount for mount in config()["HostConfig"]["Mounts"]}

    assert {target: mount["ReadOnly"] for target, mount in mounts.items()} == {
        "/workspace": False,
        "/agent/state": False,
        "/agent/home": False,
        "/agent/settings": True,
    }
    assert mounts["/workspace"]["Source"] == "/data/workspace"
    assert {mount["Type"] for mount in mounts.values()} == {"bind"}


def test_a_read_only_volume_is_mounted_so() -> None:
    """The spec may take rights away."""
    spec = replace(SPEC, volumes=(Volume(VolumeRole.WORKSPACE, Path("/data"), is_read_only=True),))

    assert [mount["ReadOnly"] for mount in config(spec)["HostConfig"]["Mounts"]] == [True]


def test_our_labels_and_variables_win() -> None:
    """A user's label cannot make a container another install's, nor a variable move the agent's folders."""
    made = config()

    assert made["Labels"]["team"] == "blue"
    assert made["Labels"][LABEL_INSTALL] == "inst"
    assert "LANG=C.UTF-8" in made["Env"]
    assert [entry for entry in made["Env"] if entry.startswith("HOME=")] == ["HOME=/agent/home"]


def test_the_name_says_whose_it_is() -> None:
    """For people; nothing is found by it."""
    assert container_name(SPEC) == "cnap-inst-alice-3"


def test_a_closed_network_publishes_nothing_and_asks_the_host_for_no_name() -> None:
    """The engine's resolver would ask the host's resolver from the host, whatever the network's kind."""
    closed = replace(OPEN, is_internal=True)
    host = container_config(SPEC, limits=SPEC.limits, network=closed, user=(1, 1), hardware={})["HostConfig"]

    assert host["NetworkMode"] == "net"
    assert host["Dns"] == ["127.0.0.1"]
    assert "PortBindings" not in host
    assert "ExtraHosts" not in host


def test_hardware_is_part_of_what_is_asked() -> None:
    """As it was checked against the host."""
    host = container_config(SPEC, limits=SPEC.limits, network=OPEN, user=(1, 1), hardware={"ShmSize": 5})["HostConfig"]

    assert host["ShmSize"] == 5


def test_changed_limits_are_said_as_they_were_at_first() -> None:
    """What is named differently from creation would be refused, or leave the old limit standing."""
    limits = limit_options(SPEC.limits)

    assert limits.items() <= config()["HostConfig"].items()
    assert limits["Memory"] == limits["MemorySwap"]
