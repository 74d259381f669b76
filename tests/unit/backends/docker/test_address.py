"""Where the engine is, as DOCKER_HOST says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnap_runner.backends.docker import DockerBackend
from cnap_runner.backends.docker.address import engine_address
from cnap_runner.errors import InvalidInput
from cnap_runner.model.instance import InstanceRef


@pytest.mark.parametrize(
    ("given", "environment", "host"),
    [
        (None, {}, "unix:///var/run/docker.sock"),
        (None, {"DOCKER_HOST": ""}, "unix:///var/run/docker.sock"),
        (None, {"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}, "unix:///run/user/1000/docker.sock"),
        ("tcp://127.0.0.1:2375", {"DOCKER_HOST": "unix:///other.sock"}, "tcp://127.0.0.1:2375"),
    ],
)
def test_the_nearest_address_counts(given: str | None, environment: dict[str, str], host: str) -> None:
    """The one given comes before DOCKER_HOST, that before the default."""
    assert engine_address(given, environment=environment).host == host


def test_tls_is_set_as_for_dockers_own_command_line() -> None:
    """DOCKER_TLS_VERIFY and DOCKER_CERT_PATH switch TLS on; only the first has the server's name checked."""
    host = "tcp://engine.example:2376"
    plain = engine_address(host, environment={})
    verified = engine_address(host, environment={"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "certs"})
    unverified = engine_address(host, environment={"DOCKER_CERT_PATH": "certs"})

    assert (plain.certificates, plain.http_url) == (None, "http://engine.example:2376")
    assert (verified.certificates, verified.verifies_server) == (Path("certs"), True)
    assert verified.http_url == "https://engine.example:2376"
    assert (unverified.certificates, unverified.verifies_server) == (Path("certs"), False)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("unix:///s", True), ("tcp://127.0.0.1:2375", True), ("tcp://[::1]:2375", True), ("tcp://engine:2375", False)],
)
def test_a_distant_engine_is_known_as_one(host: str, is_local: bool) -> None:
    """Ports on 127.0.0.1 are this machine's only for a local engine."""
    assert engine_address(host, environment={}).is_local is is_local


@pytest.mark.parametrize(
    ("host", "hint"),
    [("ssh://me@host", "Run cnap-runner there"), ("npipe://x", "Use unix://"), ("nonsense", "Use unix://")],
)
def test_what_cannot_be_used_is_refused_with_a_way_out(host: str, hint: str) -> None:
    """ssh and nonsense are refused when the backend is made, before anything is asked."""
    with pytest.raises(InvalidInput, match=hint):
        DockerBackend(docker_host=host)


def test_the_shell_goes_to_the_same_engine() -> None:
    """Docker's command line is told the address, so that a context of its own changes nothing."""
    backend = DockerBackend(docker_host="tcp://127.0.0.1:2375")

    assert backend.shell_command(InstanceRef("i-1", "abc"), ["bash", "-l"]) == [
        *("docker", "-H", "tcp://127.0.0.1:2375", "exec", "-it", "-w", "/workspace", "abc", "bash", "-l")
    ]
