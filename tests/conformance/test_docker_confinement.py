"""Networks, runtimes and hardware of containers, and the options that keep an agent where it is."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import docker
import pytest

from cnap_runner.backends.docker import DockerBackend
from cnap_runner.backends.docker.options import KIT_FOLDER
from cnap_runner.errors import InvalidInput
from cnap_runner.image.kit import prepare_kit
from cnap_runner.model.hardware import Hardware
from cnap_runner.model.instance import LABEL_INSTALL, LABEL_MANAGED, LABEL_NETWORK, InstanceStatus, Limits, Network
from cnap_runner.testing.backend_harness import GRACE, LIMIT_SECONDS, Harness, Started, secrets

pytestmark = pytest.mark.engine

VISIT = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--max-time", "1"]


@pytest.fixture
async def engine(docker_engine: Harness) -> AsyncIterator[Harness]:
    """Containers; none is left after the test."""
    yield docker_engine
    await docker_engine.clean_up()


async def run(harness: Harness, started: Started, script: str) -> list[str]:
    """Run a shell script inside and give its lines."""
    return (await harness.backend.exec(started.ref, ["sh", "-c", script], timeout=GRACE)).output.decode().splitlines()


async def test_a_closed_agent_is_reached_and_reaches_nothing(engine: Harness) -> None:
    """The host reaches its server by its own address; from inside neither the world, the host's names nor another agent answer."""
    first = await engine.start(replace(engine.spec(), network=Network.CLOSED))
    second = await engine.start(replace(engine.spec(), network=Network.CLOSED))
    seen = await engine.backend.inspect(second.ref)
    closed = await engine.backend.closed_network(engine.install_id)
    assert closed is not None

    other = await engine.backend.exec(first.ref, [*VISIT, f"{second.endpoint}/"], timeout=GRACE)
    world = await engine.backend.exec(first.ref, [*VISIT, "http://192.0.2.1/"], timeout=GRACE)
    names = await engine.backend.exec(first.ref, ["getent", "hosts", "localhost.example"], timeout=GRACE)

    assert second.endpoint == f"http://{seen.address}:4096"
    assert seen.endpoint == second.endpoint
    assert seen.address is not None
    assert seen.address.rpartition(".")[0] == closed.gateway.rpartition(".")[0]
    assert closed.is_internal
    assert (other.output, world.output) == (b"000", b"000")
    assert (names.exit_code, names.output) == (2, b"")


async def test_the_kinds_of_network_are_two_bridges(engine: Harness, docker_client: docker.DockerClient) -> None:
    """Each is told by its id, its bridge, its gateway and its addresses, as the host has them; asking twice makes nothing more."""
    opened = await engine.backend.open_network(engine.install_id)
    closed = await engine.backend.closed_network(engine.install_id)
    again = await engine.backend.closed_network(engine.install_id)

    assert opened is not None
    assert closed is not None
    assert closed == again
    for facts, kind in ((opened, Network.OPEN), (closed, Network.CLOSED)):
        said = docker_client.networks.get(facts.id).attrs
        assert (said["Internal"], said["Labels"][LABEL_NETWORK]) == (facts.is_internal, kind)
        assert said["IPAM"]["Config"][0]["Subnet"] == facts.subnet
        assert (Path("/sys/class/net") / facts.interface / "bridge").is_dir()


async def test_an_install_of_one_old_network_keeps_it(docker_client: docker.DockerClient, install_id: str) -> None:
    """A network without a kind is the open one, the closed one is made beside it, and purge removes both."""
    install = f"{install_id}-other"
    old = docker_client.networks.create("cnap-old", labels={LABEL_MANAGED: "true", LABEL_INSTALL: install})
    backend = DockerBackend()

    await backend.prepare(install)
    opened, closed = await backend.open_network(install), await backend.closed_network(install)
    await backend.purge(install)
    await backend.aclose()

    assert opened is not None
    assert closed is not None
    assert (opened.id, opened.is_internal) == (old.id, False)
    assert (closed.id != old.id, closed.is_internal) == (True, True)
    assert docker_client.networks.list(filters={"label": f"{LABEL_INSTALL}={install}"}) == []


async def test_runtime_and_hardware_are_given(engine: Harness, docker_client: docker.DockerClient) -> None:
    """Another runtime than the default runs the instance; shared memory, limits of processes and a device are as asked for."""
    info = docker_client.info()
    other = next(name for name in sorted(info["Runtimes"]) if name != info["DefaultRuntime"] and name.endswith(".v2"))
    hardware = Hardware(
        shm_bytes=32 << 20, ulimits={"nofile": (512, 1024), "core": (0, 0)}, devices=("/dev/loop-control",)
    )

    started = await engine.start(replace(engine.spec(), runtime=other, hardware=hardware))
    lines = await run(
        engine,
        started,
        "df --output=size -BM /dev/shm | tail -1; ulimit -n; ulimit -H -n; ulimit -c; ls -d /dev/loop-control",
    )

    assert docker_client.api.inspect_container(started.ref.handle)["HostConfig"]["Runtime"] == other
    assert [line.strip() for line in lines] == ["32M", "512", "1024", "0", "/dev/loop-control"]


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"runtime": "no-such-runtime"}, "it knows .*runc"),
        ({"hardware": Hardware(devices=("/dev/no-such-device",))}, "no-such-device"),
        ({"hardware": Hardware(devices=("/etc/hostname",))}, "no device"),
        ({"hardware": Hardware(shm_bytes=1 << 40)}, "shared memory"),
        ({"hardware": Hardware(ulimits={"files": (1, 1)})}, "nofile"),
        ({"hardware": Hardware(ulimits={"nofile": (-1, 1)})}, "soft limit"),
    ],
)
async def test_what_the_host_lacks_is_refused(engine: Harness, asked: dict[str, Any], word: str) -> None:
    """The error names it, and nothing is left."""
    with pytest.raises(InvalidInput, match=word):
        await engine.create(replace(engine.spec(), **asked))

    assert await engine.backend.list_instances(engine.install_id) == []


async def test_an_agent_shares_nothing_with_its_host(engine: Harness, docker_client: docker.DockerClient) -> None:
    """Its processes, shared memory, cgroups and kernel settings are its own or out of reach, and it goes first when memory ends."""
    started = await engine.start()
    host = docker_client.api.inspect_container(started.ref.handle)["HostConfig"]

    lines = await run(
        engine,
        started,
        "ls -d /proc/[0-9]* | wc -l; grep -v ':/$' /proc/self/cgroup | grep -vc '^0:'; "
        "cat /proc/1/oom_score_adj; cat /proc/kcore /proc/keys 2>/dev/null | wc -c; grep Seccomp: /proc/self/status",
    )

    assert not host["Privileged"]
    assert (host["IpcMode"], host["CgroupnsMode"], host["PidMode"], host["UsernsMode"]) == (
        "private",
        "private",
        "",
        "",
    )
    assert (host["Binds"], host["CapAdd"], host["SecurityOpt"]) == (None, None, ["no-new-privileges"])
    assert {"/proc/kcore", "/proc/keys", "/proc/timer_list"} <= set(host["MaskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(host["ReadonlyPaths"])
    assert int(lines[0]) < 10
    assert lines[1:] == ["0", "500", "0", "Seccomp:\t2"]


async def test_changed_limits_are_the_kernels(engine: Harness, docker_client: docker.DockerClient) -> None:
    """Memory with swap, processors and processes of a container that runs are what was asked for; what the host lacks is refused."""
    started = await engine.start()

    await engine.backend.update_limits(started.ref, Limits(memory_bytes=600 << 20, cpus=0.5, pids=70))

    host = docker_client.api.inspect_container(started.ref.handle)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        600 << 20,
        600 << 20,
        500_000_000,
        70,
    )
    with pytest.raises(InvalidInput, match="memory"):
        await engine.backend.update_limits(started.ref, Limits(memory_bytes=1 << 50, cpus=1.0, pids=70))
    assert (await engine.backend.inspect(started.ref)).status is InstanceStatus.RUNNING


async def test_secrets_are_delivered_into_an_image_without_tools(
    engine: Harness, docker_client: docker.DockerClient, runner_image: str
) -> None:
    """An empty image has neither a shell nor tar: the kit's own do it, and the set is replaced all the same."""
    empty, _ = docker_client.images.build(fileobj=io.BytesIO(b"FROM scratch\nLABEL cnap.test=empty\n"), rm=True)
    try:
        kit = await anyio.to_thread.run_sync(prepare_kit, str(empty.id), runner_image)
        ref = await engine.create(spec := replace(engine.spec(), image=str(empty.id), kit=kit))
        await engine.backend.start(ref, secrets=secrets(stays="old", leaves="old"))

        folder, tools = engine.backend.layout(spec).secrets, f"{KIT_FOLDER}/busybox"
        with anyio.fail_after(LIMIT_SECONDS):
            while (await engine.backend.exec(ref, [tools, "cat", f"{folder}/stays"], timeout=GRACE)).output != b"old":
                await anyio.sleep(0.02)

        await engine.backend.deliver(ref, secrets=secrets(stays="new"))

        listed = await engine.backend.exec(ref, [tools, "ls", folder], timeout=GRACE)
        stays = await engine.backend.exec(ref, [tools, "cat", f"{folder}/stays"], timeout=GRACE)
        assert listed.output.split() == [b"server-password", b"stays"]
        assert stays.output == b"new"
    finally:
        await engine.clean_up()
        docker_client.images.remove(str(empty.id), force=True)
