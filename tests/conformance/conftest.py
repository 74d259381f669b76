"""The backends that the suite runs on. A new one needs a fixture here, and nothing else."""

from __future__ import annotations

import io
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio
import docker
import pytest

from cnap_runner.backends.docker import DockerBackend
from cnap_runner.backends.process import ProcessBackend
from cnap_runner.image.build import build_image
from cnap_runner.model.instance import LABEL_INSTALL
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.backend_harness import FakeHarness, Harness, StubHarness

STUB = Path(__file__).with_name("stub_opencode.py")


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The engine, by its SDK, for tests to look at things from outside."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def runner_image() -> str:
    """The agents' image, built if the engine does not have it as it should be."""
    # In a thread: the first test that wants it may be an asynchronous one, whose thread has a loop already.
    with ThreadPoolExecutor() as thread:
        return thread.submit(anyio.run, partial(build_image, "cnap-runner:latest")).result().tag


@pytest.fixture(scope="session")
def stub_image(runner_image: str, docker_client: docker.DockerClient) -> Iterator[str]:
    """The agents' image with a stub for OpenCode: it boots in a tenth of the time and does what it is asked."""
    tag = f"cnap-conformance:{uuid.uuid4().hex[:8]}"
    files = {
        "Dockerfile": f"FROM {runner_image}\nCOPY opencode /usr/local/bin/opencode\n",
        "opencode": f"#!/usr/bin/python3 -IS\n{STUB.read_text()}",
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    context.seek(0)
    docker_client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True)
    yield tag
    docker_client.images.remove(tag, force=True)


@pytest.fixture(scope="session")
def stub_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stub as a program of this machine."""
    binary = tmp_path_factory.mktemp("bin") / "opencode"
    binary.write_text(f"#!{sys.executable} -IS\n{STUB.read_text()}")
    binary.chmod(0o755)
    return binary


@pytest.fixture(scope="module")
def install_id() -> str:
    """An install of this module's own."""
    return f"conf-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
async def fake(install_id: str, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """The fake, on which each promise must hold as well."""
    backend = FakeBackend(images={"stub"})
    return FakeHarness(backend=backend, install_id=install_id, image="stub", folder=tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
async def process(
    install_id: str, stub_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """Child processes."""
    folder = tmp_path_factory.mktemp("process")
    backend = ProcessBackend(data_dir=folder / "data", opencode_binary=stub_binary)
    await backend.prepare(install_id)
    yield StubHarness(backend=backend, install_id=install_id, image="none", folder=folder)
    await backend.purge(install_id)
    await backend.aclose()


@pytest.fixture(scope="module")
async def docker_engine(
    install_id: str, stub_image: str, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """Containers. What a failed test left is removed here, by label and by other means than those under test."""
    backend = DockerBackend()
    try:
        await backend.prepare(install_id)
        folder = tmp_path_factory.mktemp("docker")
        yield StubHarness(backend=backend, install_id=install_id, image=stub_image, folder=folder)
    finally:
        await backend.aclose()
        for install in (install_id, f"{install_id}-other"):
            mine: dict[str, str | list[str] | bool] = {"label": f"{LABEL_INSTALL}={install}"}
            for container in docker_client.containers.list(all=True, filters=mine):
                container.remove(force=True, v=True)
            for network in docker_client.networks.list(filters=mine):
                network.remove()


@pytest.fixture(scope="module", params=["fake", "process", pytest.param("docker_engine", marks=pytest.mark.engine)])
def shared_harness(request: pytest.FixtureRequest) -> Harness:
    """Each backend in turn."""
    harness: Harness = request.getfixturevalue(request.param)
    return harness


@pytest.fixture
async def harness(shared_harness: Harness) -> AsyncIterator[Harness]:
    """A backend without instances; it has none after the test either."""
    yield shared_harness
    await shared_harness.clean_up()
