"""Agents with settings of their own, and changes that reach them while they run: a real engine, OpenCode and MCP server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Received

from cnap_runner import AgentSpec, Message, Outcome, RunnerManager, RunRequest, RunResult, Settings
from cnap_runner.model.events import RunEnded, ToolFinished
from cnap_runner.model.instance import LABEL_AGENT, LABEL_INSTALL
from cnap_runner.testing.scripted_model import Say, ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

AMPLE = timedelta(seconds=25)
MCP_SERVER = "mcp-server-time==2026.10.19"
TIME = {"command": ["python3", "-m", "mcp_server_time"], "environment": {"PYTHONPATH": "/workspace/.mcp"}}
ASK_TIME = 'call: time_get_current_time {"timezone": "Asia/Tokyo"}\nsay: told'


class HearingModel(ScriptedModel):
    """Keeps the system prompts it gets."""

    def __init__(self, says: str, *, api_key: str) -> None:
        super().__init__(default=Say(says), host="0.0.0.0", api_key=api_key)
        self.heard: list[str] = []

    def app(self) -> ASGIApp:
        """Listen in."""
        inner = super().app()

        async def listening(scope: Scope, receive: Receive, send: Send) -> None:
            body = bytearray()

            async def heard() -> Received:
                message = await receive()
                body.extend(message.get("body", b""))
                return message

            await inner(scope, heard, send)
            messages = json.loads(body or b"{}").get("messages", [])
            self.heard += [json.dumps(message) for message in messages if message["role"] == "system"]

        return listening


@dataclass
class House:
    """Two models with a key each, two agents, and the manager that drives them."""

    manager: RunnerManager
    folder: Path
    one: HearingModel
    two: HearingModel
    alice: dict[str, Any] = field(default_factory=dict)

    def provider(self, name: str, model: HearingModel) -> dict[str, Any]:
        config = model.provider_config(name, host="host.docker.internal", api_key=f"${{{name.upper()}_KEY}}")
        return {"provider": config["provider"]}

    def key(self, name: str, value: str) -> str:
        path = self.folder / f"{name}.key"
        path.write_text(value)
        return f"file:{path}"

    async def change(self, **fields: Any) -> None:
        self.alice |= fields
        await self.manager.create_runner(AgentSpec(**self.alice))

    async def run(self, agent_id: str, prompt: str = "hello") -> RunResult:
        runner = await self.manager.get_runner(agent_id)
        return await runner.run(asking(prompt))

    async def container(self, client: docker.DockerClient, agent_id: str = "alice") -> Any:
        install_id = self.manager._usable().install.install_id
        labels = [f"{LABEL_INSTALL}={install_id}", f"{LABEL_AGENT}={agent_id}"]
        (found,) = await anyio.to_thread.run_sync(lambda: client.containers.list(filters={"label": labels}))
        return found


def asking(prompt: str) -> RunRequest:
    return RunRequest(messages=[Message(role="user", content=prompt)], timeout=timedelta(minutes=2))


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory, runner_image: str) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("live")
    target = folder / "data" / "workspace" / "alice" / ".mcp"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), MCP_SERVER]
    await anyio.run_process(pip, stderr=subprocess.DEVNULL)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(HearingModel("I am one", api_key="key-of-model-one"))
        two = await stack.enter_async_context(HearingModel("I am two", api_key="key-of-model-two"))
        settings = Settings(data_dir=folder / "data", fetch_models=False, image=runner_image)
        manager = await stack.enter_async_context(RunnerManager(settings))
        yield House(manager, folder, one, two)
        await manager.purge()


async def test_two_agents_with_settings_of_their_own_answer_differently_at_the_same_time(house: House) -> None:
    """Models, keys, system prompts, rules, files and MCP servers: each agent has its own."""
    await house.change(
        agent_id="alice",
        model="one/demo",
        system_prompt="PROMPT-OF-ALICE",
        opencode=house.provider("one", house.one),
        opencode_files={"AGENTS.md": "RULES-OF-ALICE", "commands/greet.md": "---\ndescription: Greets\n---\nsay: hi"},
        secrets={"ONE_KEY": house.key("one", "key-of-model-one")},
        mcp={"time": TIME},
    )
    bob = AgentSpec(
        agent_id="bob",
        model="two/demo",
        system_prompt="PROMPT-OF-BOB",
        opencode=house.provider("two", house.two),
        secrets={"TWO_KEY": house.key("two", "key-of-model-two")},
        mcp={"gone": {"url": "http://127.0.0.1:9/mcp"}, "off": {"command": ["false"], "enabled": False}},
    )
    await house.manager.create_runner(bob)
    results: dict[str, RunResult] = {}

    async def run(agent_id: str) -> None:
        results[agent_id] = await house.run(agent_id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "alice")
        tasks.start_soon(run, "bob")
    assert {name: (result.output, result.error) for name, result in results.items()} == {
        "alice": ("I am one", None),
        "bob": ("I am two", None),
    }
    heard = {"alice": "".join(house.one.heard), "bob": "".join(house.two.heard)}
    assert all(f"PROMPT-OF-{name.upper()}" in heard[name] for name in heard)
    assert "RULES-OF-ALICE" in heard["alice"]
    assert "ALICE" not in heard["bob"]
    states = {name: await (await house.manager.get_runner(name)).mcp(timeout=AMPLE) for name in ("alice", "bob")}
    assert [(state.name, state.status) for state in states["alice"]] == [("time", "connected")]
    assert [(state.name, state.status) for state in states["bob"]] == [("gone", "failed"), ("off", "disabled")]


async def test_the_tool_of_a_real_mcp_server_is_called(house: House) -> None:
    """The server is a program inside the container; its answer is in the turn."""
    runner = await house.manager.get_runner("alice")
    events = [event async for event in runner.stream(asking(ASK_TIME))]
    (finished,) = [event for event in events if isinstance(event, ToolFinished)]
    (ended,) = [event for event in events if isinstance(event, RunEnded)]
    assert finished.tool == "time_get_current_time"
    assert '"timezone": "Asia/Tokyo"' in finished.output
    assert ended.result.output == "told"


async def test_model_key_and_servers_change_in_the_same_container(
    house: House, docker_client: docker.DockerClient
) -> None:
    """Another model, a rotated key, a server more and a server less: the container stays, and so does the session."""
    before, first = await house.container(docker_client), await house.run("alice")
    secrets = house.alice["secrets"] | {"TWO_KEY": house.key("other", "key-of-model-two")}
    opencode = {"provider": house.alice["opencode"]["provider"] | house.provider("two", house.two)["provider"]}
    await house.change(model="two/demo", secrets=secrets, opencode=opencode)
    assert (await house.run("alice")).output == "I am two"

    house.key("other", "no-key-at-all")
    await house.manager.rotate_secrets("alice")
    refused = await house.run("alice")
    assert (refused.outcome, refused.error and refused.error.code) == (Outcome.FAILED, "provider_auth")
    house.key("other", "key-of-model-two")
    await house.manager.rotate_secrets("alice")
    assert (await house.run("alice")).output == "I am two"

    runner = await house.manager.get_runner("alice")
    await house.change(mcp={"time": TIME, "clock": TIME})
    assert [(s.name, s.status) for s in await runner.mcp(timeout=AMPLE)] == [
        ("clock", "connected"),
        ("time", "connected"),
    ]
    await house.change(mcp={"clock": TIME})
    assert [(s.name, s.status) for s in await runner.mcp(timeout=AMPLE)] == [("clock", "connected")]
    last = await house.run("alice", ASK_TIME.replace("time_", "clock_", 1))
    assert (last.output, last.session_id) == ("told", first.session_id)
    assert (await house.container(docker_client)).id == before.id


async def test_a_memory_limit_changes_in_the_same_container(house: House, docker_client: docker.DockerClient) -> None:
    """As the engine says."""
    before = await house.container(docker_client)
    await house.change(resources={"memory_mb": 3072})
    after = await house.container(docker_client)
    assert (after.id, after.attrs["HostConfig"]["Memory"]) == (before.id, 3072 << 20)


async def test_what_is_fixed_for_a_containers_life_makes_a_new_one(
    house: House, docker_client: docker.DockerClient
) -> None:
    """A label: the idle container ends at once, the next run has a new one, in the same session."""
    before, first = await house.container(docker_client), await house.run("alice")
    await house.change(labels={"team": "a"})
    assert str((await house.manager.get_runner("alice")).status) == "stopped"
    second = await house.run("alice")
    after = await house.container(docker_client)
    assert (after.id == before.id, after.labels["team"]) == (False, "a")
    assert (second.output, second.session_id) == ("I am two", first.session_id)
