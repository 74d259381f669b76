"""What the real server writes, collected from a real engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio.to_thread
import docker
import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, Settings
from cnap_runner.model.instance import LABEL_INSTALL
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]


async def test_the_servers_log_outlives_its_container_and_names_the_run(
    tmp_path: Path, runner_image: str, docker_client: docker.DockerClient
) -> None:
    """OpenCode's own log file, whole, is in what was collected: by run, by pattern, and after somebody removed the container by hand."""
    settings = Settings(data_dir=tmp_path / "data", image=runner_image, fetch_models=False)
    async with ScriptedModel(host="0.0.0.0") as model, RunnerManager(settings) as manager:
        provider = model.provider_config(host="host.docker.internal")
        runner = await manager.create_runner(AgentSpec(agent_id="alice", model=model.model, opencode=provider))
        prompt = Message(role="user", content="bash: echo hello\nsay: done")
        result = await runner.run(RunRequest(messages=[prompt]))
        assert result.output == "done", result.error
        own_log = AgentFolders(settings.data_dir, "alice").state / "opencode" / "log" / "opencode.log"
        of_server = (await anyio.to_thread.run_sync(own_log.read_text)).splitlines()
        of_run = [line.text async for line in runner.logs(run=result.run_id)]
        assert result.session_id is not None
        assert any(result.session_id in text for text in of_run)
        await manager.stop_runner("alice")
        install = manager._usable().install
        labels: dict[str, str | list[str] | bool] = {"label": f"{LABEL_INSTALL}={install.install_id}"}
        (container,) = await anyio.to_thread.run_sync(partial(docker_client.containers.list, True, filters=labels))
        await manager._usable().logs.complete("alice", await runner._ref())
        await anyio.to_thread.run_sync(partial(container.remove, force=True))
        lines = [line async for line in runner.logs()]
        assert set(of_server) <= {line.text for line in lines if line.stream == "stderr"}
        assert any("listening" in line.text for line in lines if line.stream == "stdout")
        assert {line.instance_id for line in lines} == {lines[0].instance_id}
        found = [line.text async for line in runner.logs(grep="level=INFO", tail=3)]
        assert len(found) == 3
        await manager.purge()
