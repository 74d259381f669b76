"""The image's promises (docs/image.md), kept by a real container on a real engine."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from cnap_runner.errors import EngineUnavailable, ImageBuildFailed, ImageNotFound
from cnap_runner.image.build import build_image, image_version
from cnap_runner.image.packages import OPENCODE, fetch, host_platform
from cnap_runner.image.push import push_image

pytestmark = pytest.mark.engine

PASSWORD = "a-password-of-this-test"
FOREIGN_UID = 54321
"""A user that the image's passwd file does not know."""
SECRETS_FROM_STDIN = {"CNAP_SECRETS": "stdin"}

Create = Callable[..., Container]


@pytest.fixture
def create(runner_image: str, docker_client: docker.DockerClient) -> Iterator[Create]:
    """Create containers as confined as an agent's, which are gone after the test."""
    made: list[Container] = []

    def _create(command: str | list[str], *, uid: int = 10000, **options: Any) -> Container:
        mounts = dict.fromkeys(("/agent/state", "/agent/home", "/workspace", "/run/secrets"), f"uid={uid},mode=0700")
        container = docker_client.containers.create(
            runner_image,
            command,
            user=f"{uid}:{uid}",
            read_only=True,
            tmpfs={**mounts, "/tmp": "mode=1777"},  # noqa: S108 - inside the container
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            labels={"cnap.test": "image"},
            **options,
        )
        made.append(container)
        return container

    yield _create
    for container in made:
        container.remove(force=True)


def secrets_archive() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in (("server-password", PASSWORD), ("KEY", "sk-of-this-test")):
            member = tarfile.TarInfo(name)
            member.mode = 0o400
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return archive.getvalue()


def start_with_secrets(container: Container, archive: bytes) -> None:
    """Attach before the start, so that nothing written is lost; then write, and close."""
    attached: Any = container.attach_socket(params={"stdin": 1, "stream": 1})
    container.start()
    attached._sock.sendall(archive)
    attached._sock.close()
    attached.close()


def run_to_end(container: Container) -> tuple[int, str]:
    container.start()
    status = container.wait(timeout=30)["StatusCode"]
    return status, container.logs().decode()


def output_of(container: Container, *argv: str) -> str:
    said = container.exec_run(list(argv)).output
    assert isinstance(said, bytes)
    return said.decode()


def until_healthy(container: Container) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        container.reload()
        if container.health == "healthy":
            return
        assert container.status == "running", container.logs().decode()
        time.sleep(0.1)
    pytest.fail(f"not healthy: {container.attrs['State']}")


@pytest.mark.parametrize("uid", [10000, FOREIGN_UID])
def test_the_tools_work_for_any_user_on_a_read_only_root(create: Create, uid: int) -> None:
    """git, curl, ripgrep, Python and Node with npm, and a place to write to, for the image's own user and for a foreign one."""
    script = """
        set -e
        git init -q . && git -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m first && git log --format=%s
        echo needle >file && rg --no-filename needle
        python3 -m venv --without-pip "$HOME/venv" && "$HOME/venv/bin/python" -c 'print("python")'
        node -p '"node"'
        npm --version >/dev/null && npx --version >/dev/null && curl --version >/dev/null && echo tools
        id -u
        opencode --version
    """
    container = create(["-euc", script], uid=uid, entrypoint="/bin/sh", network_disabled=True)
    status, output = run_to_end(container)
    version = OPENCODE[host_platform()].version
    assert (status, output.split()) == (0, ["first", "needle", "python", "node", "tools", str(uid), version])


def test_it_refuses_to_serve_without_a_password(create: Create) -> None:
    """An open server is a published vulnerability; one line says what is missing."""
    status, output = run_to_end(create("serve"))
    assert status == 78
    assert output.splitlines() == [
        "cnap-runner: /run/secrets/server-password is missing or not readable by uid 10000; "
        "a server without a password is refused."
    ]


def test_it_refuses_secrets_that_are_no_archive(create: Create) -> None:
    """Garbage on standard input ends the start; nothing of it is shown."""
    container = create("serve", environment=SECRETS_FROM_STDIN, stdin_open=True)
    start_with_secrets(container, b"not-an-archive " * 1000)
    status = container.wait(timeout=30)["StatusCode"]
    output = container.logs().decode()
    assert status == 78
    assert "cnap-runner: standard input is no tar archive that fits into /run/secrets." in output
    assert "not-an-archive" not in output


@pytest.mark.opencode
@pytest.mark.parametrize(("uid", "has_init"), [(10000, True), (FOREIGN_UID, False)])
def test_it_serves_with_secrets_that_leave_no_trace_and_stops_politely(
    create: Create, uid: int, has_init: bool
) -> None:
    """Secrets by standard input, then healthy; nothing of them in inspect, logs or argument lists; SIGTERM ends it, with the
    engine's init process and without one."""
    container = create(
        "serve",
        uid=uid,
        environment=SECRETS_FROM_STDIN,
        stdin_open=True,
        init=has_init,
        healthcheck={
            "test": ["CMD", "/usr/local/lib/cnap/healthcheck"],
            "interval": 500_000_000,
            "timeout": 5_000_000_000,
        },
    )
    start_with_secrets(container, secrets_archive())
    until_healthy(container)

    container.reload()
    told = json.dumps(container.attrs) + container.logs().decode()
    everyone = output_of(container, "sh", "-c", "cat /proc/[0-9]*/cmdline")
    assert PASSWORD not in told + everyone
    assert "sk-of-this-test" not in told + everyone
    files = [f"/run/secrets/{name}" for name in ("server-password", "KEY")]
    assert output_of(container, "stat", "-c", "%a %u", *files).splitlines() == [f"400 {uid}"] * 2

    asked = time.monotonic()
    container.stop(timeout=20)
    took = time.monotonic() - asked
    container.reload()
    # 137 would be the kill after the grace of 20 s; far below it, whatever else this machine does.
    assert (container.status, container.attrs["State"]["ExitCode"]) == ("exited", 143)
    assert took < 5


async def test_a_current_image_is_not_built_again(runner_image: str) -> None:
    """The second call finds it by its label, and tells what it has."""
    lines: list[str] = []
    built = await build_image(runner_image, progress=lines.append)
    assert (built.was_built, lines) == (False, [])
    assert built.opencode_version == await image_version(runner_image) == OPENCODE[host_platform()].version
    assert built.size_bytes > 0


async def test_a_base_that_cannot_be_had_is_told(runner_image: str) -> None:
    """One clear error, and the tag still names what it named."""
    with pytest.raises(ImageBuildFailed):
        await build_image(runner_image, base="localhost:1/nowhere/nothing:none")
    assert await image_version(runner_image)


async def test_an_image_that_is_not_there_is_told() -> None:
    """Neither its version nor a push is tried."""
    with pytest.raises(ImageNotFound):
        await image_version("cnap-runner-test-nothing:none")
    with pytest.raises(ImageNotFound):
        await push_image("cnap-runner-test-nothing:none", "localhost:1/nothing:none")


async def test_a_registry_that_does_not_answer_is_told(runner_image: str, docker_client: docker.DockerClient) -> None:
    """The push ends with the engine's words."""
    target = "localhost:1/cnap-runner:test"
    try:
        with pytest.raises(ImageBuildFailed, match="localhost:1"):
            await push_image(runner_image, target)
    finally:
        docker_client.images.remove(target)


async def test_no_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead address is one clear error, before anything is fetched."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(EngineUnavailable):
        await build_image("cnap-runner-test-nothing:none")


def test_the_arm64_package_is_what_it_says() -> None:
    """Fetched and verified, its program's ELF header says AArch64: as far as arm64 can be seen without such a machine."""
    with tarfile.open(fetch(OPENCODE["linux-arm64"])) as archive:
        program = archive.extractfile("package/bin/opencode")
        assert program is not None
        header = program.read(20)
    assert header[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", header, 18) == (0xB7,)
