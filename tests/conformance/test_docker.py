"""Promises that only a Docker Engine can keep."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from cnap_runner.backends.docker import DockerBackend
from cnap_runner.errors import (
    EnginePermissionDenied,
    EngineUnavailable,
    InstanceExited,
    InstanceStartFailed,
    InvalidInput,
)
from cnap_runner.model.instance import LABEL_INSTALL, InstanceEventKind, InstanceRef, InstanceStatus
from cnap_runner.testing.backend_harness import GRACE, LIMIT_SECONDS, NO_GRACE, PASSWORD, Harness, secrets

pytestmark = pytest.mark.engine

NOBODY = 65534


@pytest.fixture
async def engine(docker_engine: Harness) -> AsyncIterator[Harness]:
    """Containers; none is left after the test."""
    yield docker_engine
    await docker_engine.clean_up()


@pytest.fixture
def dead_socket(tmp_path: Path) -> str:
    """A socket that nobody listens on any more."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return f"unix://{path}"


@pytest.fixture
def forbidden_socket(tmp_path: Path) -> Iterator[str]:
    """A socket that this user may not use."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield f"unix://{path}"
        finally:
            if is_root:
                os.seteuid(0)


async def test_no_engine_is_said_by_each_kind_of_call(dead_socket: str) -> None:
    """Questions, commands and watches alike say that no engine answers, and what to do."""
    backend = DockerBackend(docker_host=dead_socket)
    ref = InstanceRef("i-1", "abc")

    for call in (backend.check(), backend.list_instances("inst"), backend.stop(ref, grace=GRACE), backend.inspect(ref)):
        with pytest.raises(EngineUnavailable, match="systemctl start docker"):
            await call
    with pytest.raises(EngineUnavailable):
        async with backend.events("inst"):
            pass
    await backend.aclose()


async def test_an_engine_that_forbids_is_said_to(forbidden_socket: str) -> None:
    """No permission is another error than no engine, with another way out."""
    backend = DockerBackend(docker_host=forbidden_socket)

    with pytest.raises(EnginePermissionDenied, match="usermod"):
        await backend.check()
    await backend.aclose()


async def test_the_engine_shows_no_secret(engine: Harness, docker_client: docker.DockerClient) -> None:
    """Neither its report of a container nor that of a command inside repeats what came by standard input."""
    started = await engine.start()

    shown = json.dumps(docker_client.api.inspect_container(started.ref.handle))

    assert PASSWORD not in shown
    assert PASSWORD not in json.dumps(docker_client.api.top(started.ref.handle))


async def test_an_agent_is_confined(engine: Harness) -> None:
    """Inside there is no root, no capability, no writable system and no engine."""
    started = await engine.start()
    script = (
        "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; "
        "touch /usr/x /agent/settings/x /agent/x 2>&1; ls /var/run/docker.sock 2>&1; touch /workspace/x /tmp/x && echo works"
    )

    done = await engine.backend.exec(started.ref, ["sh", "-c", script], timeout=GRACE)

    text = done.output.decode()
    lines = text.splitlines()
    assert lines[0] == str((engine.backend.file_owner() or (os.geteuid(),))[0])
    assert lines[0] != "0"
    assert "CapEff:\t0000000000000000" in lines
    assert "CapBnd:\t0000000000000000" in lines
    assert "NoNewPrivs:\t1" in lines
    assert text.count("Read-only file system") == 3
    assert "/var/run/docker.sock" in text
    assert "No such file" in text
    assert lines[-1] == "works"


async def test_agents_do_not_reach_each_other(engine: Harness, docker_client: docker.DockerClient) -> None:
    """Two agents of one network exchange nothing; the host is reachable by its name."""
    first, second = await engine.start(), await engine.start()
    networks = docker_client.api.inspect_container(second.ref.handle)["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    visit = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--max-time", "1"]

    own = await engine.backend.exec(first.ref, [*visit, "http://127.0.0.1:4096/"], timeout=GRACE)
    other = await engine.backend.exec(first.ref, [*visit, f"http://{address}:4096/"], timeout=GRACE)
    host = await engine.backend.exec(first.ref, ["getent", "hosts", "host.docker.internal"], timeout=GRACE)

    assert own.output == b"204"
    assert other.output == b"000"
    assert other.exit_code != 0
    assert host.exit_code == 0


async def test_f24_two_first_starts_at_once_use_one_network(
    docker_client: docker.DockerClient, install_id: str
) -> None:
    """Whoever is later withdraws, and all use the same network, by id."""
    backends = [DockerBackend() for _ in range(2)]
    install = f"{install_id}-other"
    mine: dict[str, str | list[str] | bool] = {"label": f"{LABEL_INSTALL}={install}"}

    async with anyio.create_task_group() as tasks:
        for backend in backends:
            tasks.start_soon(backend.prepare, install)
    made = docker_client.networks.list(filters=mine)
    for backend in backends:
        await backend.purge(install)
        await backend.purge(install)
        await backend.aclose()

    assert len(made) == 1
    assert docker_client.networks.list(filters=mine) == []


async def test_a_network_that_somebody_removed_is_made_again(
    engine: Harness, docker_client: docker.DockerClient
) -> None:
    """After `docker network prune` one start fails with a clear error, and the next instance works."""
    ref = await engine.create()
    for network in docker_client.networks.list(filters={"label": f"{LABEL_INSTALL}={engine.install_id}"}):
        network.remove()

    with pytest.raises(InstanceStartFailed, match="network"):
        await engine.backend.start(ref, secrets=secrets())
    await engine.start()


async def test_limits_beyond_the_host_are_clipped_or_refused(
    engine: Harness, docker_client: docker.DockerClient
) -> None:
    """More processors than there are is all of them; more memory is refused before anything is made."""
    spec = engine.spec()
    ref = await engine.create(replace(spec, limits=replace(spec.limits, cpus=1000.0)))
    info = docker_client.info()

    made = docker_client.api.inspect_container(ref.handle)["HostConfig"]
    assert made["NanoCpus"] == info["NCPU"] * 10**9
    with pytest.raises(InvalidInput, match="memory"):
        await engine.create(
            replace(engine.spec(), limits=replace(spec.limits, memory_bytes=info["MemTotal"] + (1 << 30)))
        )
    assert len(await engine.backend.list_instances(engine.install_id)) == 1


async def test_a_missing_folder_is_named_and_not_made(engine: Harness) -> None:
    """The engine does not make folders that would belong to root; nothing is left behind."""
    spec = engine.spec()
    missing = spec.volumes[0].source
    missing.rmdir()

    with pytest.raises(InstanceStartFailed, match=missing.name):
        await engine.create(spec)

    assert not missing.exists()
    assert await engine.backend.list_instances(engine.install_id) == []


async def test_a_name_taken_by_another_instance_is_an_error(engine: Harness) -> None:
    """The same agent and generation under another instance id is not mistaken for the same instance."""
    spec = engine.spec()
    await engine.create(spec)

    with pytest.raises(InstanceStartFailed, match="already in use"):
        await engine.create(replace(spec, instance_id=f"{spec.instance_id}-x"))


async def test_want_of_memory_is_reported(engine: Harness) -> None:
    """An instance that the kernel killed says so, by event and by inspect."""
    started = await engine.start()
    eat = ["python3", "-c", "x = bytearray(2 << 30); print(len(x))"]

    async with engine.backend.events(engine.install_id) as events:
        done = await engine.backend.exec(started.ref, eat, timeout=GRACE)
        with anyio.fail_after(LIMIT_SECONDS):
            kinds = {(await anext(events)).kind for _ in range(2)}

    assert done.exit_code == 137
    assert kinds == {InstanceEventKind.CONNECTED, InstanceEventKind.OOM}


async def test_exec_in_a_paused_instance_says_what_to_do(engine: Harness) -> None:
    """It would wait for ever."""
    started = await engine.start()
    await engine.backend.pause(started.ref)

    with pytest.raises(Exception, match="Resume it first"):
        await engine.backend.exec(started.ref, ["true"], timeout=GRACE)


async def test_an_instance_that_ends_at_once_is_quoted(engine: Harness) -> None:
    """The error carries the exit code and its last words."""
    spec = engine.spec(environment={"STUB_EXIT": "9"})
    ref = await engine.create(spec)

    with contextlib.suppress(InstanceExited):
        await engine.backend.start(ref, secrets=secrets())
    with anyio.fail_after(LIMIT_SECONDS):
        while (await engine.backend.inspect(ref)).status is not InstanceStatus.EXITED:
            await anyio.sleep(0.02)

    with pytest.raises(InstanceExited, match="exit code 9; its last words: nothing works here"):
        await engine.backend.pause(ref)


async def test_a_cancelled_read_of_events_loses_nothing(engine: Harness) -> None:
    """Who gives up waiting for an event for a while still gets it afterwards."""
    started = await engine.start()

    async with engine.backend.events(engine.install_id) as events:
        await anext(events)
        with anyio.move_on_after(0.2):
            await anext(events)
        await engine.backend.remove(started.ref, grace=NO_GRACE)
        with anyio.fail_after(LIMIT_SECONDS):
            told: list[Any] = [(await anext(events)).kind for _ in range(3)]

    assert told == [InstanceEventKind.CONNECTED, InstanceEventKind.DIED, InstanceEventKind.REMOVED]


async def test_a_verb_after_aclose_connects_anew(engine: Harness) -> None:
    """Closing twice is no error, and lets go of connections only."""
    backend = DockerBackend()
    started = await engine.start()

    for _ in range(2):
        await backend.aclose()
        assert (await backend.inspect(started.ref)).is_live
    await backend.aclose()
