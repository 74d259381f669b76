"""Real parts, shared by all integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import anyio
import docker
import pytest

from cnap_runner.image.build import build_image

IMAGE = "cnap-runner:latest"
"""The default of `Settings.image`: what agents run in is what is tested, and nothing is built twice."""


@pytest.fixture(scope="session")
def runner_image() -> str:
    """The image of the agents, built if the engine does not have it as it should be."""
    return anyio.run(partial(build_image, IMAGE)).tag


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The engine, by its SDK, for tests to look at things from outside."""
    client = docker.from_env()
    yield client
    client.close()
