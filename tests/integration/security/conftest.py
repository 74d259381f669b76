"""A real manager with real containers, and hands inside of them for whoever attacks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import docker
import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, RunResult, Settings
from cnap_runner.model.instance import LABEL_AGENT, LABEL_INSTALL
from cnap_runner.testing.scripted_model import ScriptedModel


@dataclass
class House:
    """One install with its manager, and a model that does what its prompts say."""

    manager: RunnerManager
    model: ScriptedModel
    client: docker.DockerClient

    @property
    def data_dir(self) -> Path:
        return self.manager.settings.data_dir

    def spec(self, agent_id: str, **fields: Any) -> AgentSpec:
        provider = self.model.provider_config(host="host.docker.internal")
        return AgentSpec(**{"agent_id": agent_id, "model": self.model.model, "opencode": provider} | fields)

    def workspace(self, agent_id: str) -> Path:
        return self.data_dir / "workspace" / agent_id

    async def sh(self, agent_id: str, script: str) -> str:
        """Run a shell script inside; give all that it said."""
        runner = await self.manager.get_runner(agent_id)
        done = await runner.exec(["sh", "-c", f"({script}) 2>&1"], timeout=timedelta(seconds=60))
        return done.output.decode(errors="replace")

    async def python(self, agent_id: str, program: str, *arguments: Any) -> Any:
        """Run a Python program inside, with arguments as JSON in ``GIVEN``; give the JSON that it printed last."""
        runner = await self.manager.get_runner(agent_id)
        head = "import json, sys\nGIVEN = json.loads(sys.argv[1])\n"
        argv = ["python3", "-IS", "-c", head + program, json.dumps(arguments)]
        done = await runner.exec(argv, timeout=timedelta(seconds=60))
        assert done.exit_code == 0, done.output
        return json.loads(done.output.splitlines()[-1])

    async def turn(self, agent_id: str, prompt: str) -> RunResult:
        """Let the agent's own model do something, by the agent's own tools."""
        runner = await self.manager.get_runner(agent_id)
        return await runner.run(RunRequest(messages=[Message(role="user", content=prompt)], timeout=120))

    async def container(self, agent_id: str) -> Any:
        """The agent's container, by the engine's own account."""
        labels = [f"{LABEL_INSTALL}={self.manager._usable().install.install_id}", f"{LABEL_AGENT}={agent_id}"]
        (found,) = await anyio.to_thread.run_sync(
            partial(self.client.containers.list, filters={"label": labels}, all=True)
        )
        return found


@pytest.fixture(scope="module")
async def house(
    tmp_path_factory: pytest.TempPathFactory, runner_image: str, docker_client: docker.DockerClient
) -> AsyncIterator[House]:
    """An install without agents; nothing of it is left."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("house") / "data", image=runner_image, fetch_models=False)
    async with ScriptedModel(host="0.0.0.0") as model, RunnerManager(settings) as manager:
        yield House(manager, model, docker_client)
        await manager.purge()
