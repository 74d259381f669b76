"""An agent without the internet, on the real engine with the real OpenCode: it works, and reaches nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import docker
import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, Settings
from cnap_runner.egress.filter import why_no_filter
from cnap_runner.egress.process import living_proxy
from cnap_runner.model.instance import LABEL_INSTALL
from cnap_runner.testing.http_server import serving

pytestmark = [
    pytest.mark.engine,
    pytest.mark.opencode,
    pytest.mark.skipif(os.geteuid() != 0 or why_no_filter() is not None, reason="needs the right to filter packets"),
]

STATUS = "curl -s -m 3 -o /dev/null -w '%{http_code} ' "


def spec(mode: str, *allow: str) -> AgentSpec:
    return AgentSpec.model_validate(
        {"agent_id": "alice", "model": "scripted/demo", "egress": {"mode": mode, "allow": allow}}
    )


@pytest.fixture
def other() -> Iterator[str]:
    """Another server of the host than the model's, as containers name it."""
    with serving(BaseHTTPRequestHandler, address="0.0.0.0") as port:
        yield f"host.docker.internal:{port}"


async def test_agent_without_the_internet_finishes_a_turn(make_cli: Callable[..., Any], other: str) -> None:
    """With mode ``none`` an agent works with its model on the host, and its commands reach nothing else. A list lets more through in the same
    container. ``purge`` leaves nothing on the host."""
    cli = make_cli()
    probes = [f"http://{other}/", "http://169.254.169.254/", "http://example.com/", f"--noproxy '*' http://{other}/"]
    prompt = "bash: " + "; ".join(f"{STATUS} {probe} >> reached" for probe in probes) + "\nsay: done"
    request = RunRequest(messages=[Message(role="user", content=prompt)])
    reached = cli.workspace("alice") / "reached"

    async with RunnerManager(Settings(data_dir=cli.data_dir, fetch_models=False)) as manager:
        closed = await (await manager.create_runner(spec("none"))).run(request)
        assert (closed.output, reached.read_text()) == ("done", "403 403 403 000 "), closed.error
        container = _container_of(cli.install_id)
        assert _rules_of(cli.install_id)

        reached.unlink()
        listed = await (await manager.create_runner(spec("allowlist", other))).run(request)
        assert (listed.output, reached.read_text()) == ("done", "501 403 403 000 "), listed.error
        assert _container_of(cli.install_id) == container

        await manager.purge()

    assert _rules_of(cli.install_id) == ""
    assert living_proxy(cli.data_dir / "egress") is None


def _container_of(install_id: str) -> str:
    client = docker.from_env()
    try:
        (found,) = client.containers.list(filters={"label": f"{LABEL_INSTALL}={install_id}"})
        return str(found.id)
    finally:
        client.close()


def _rules_of(install_id: str) -> str:
    listed = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in listed.splitlines() if f"cnap-runner:{install_id}" in line)
