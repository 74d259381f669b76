"""The real OpenCode takes the scripted model for a model."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import Process

from cnap_runner.testing.scripted_model import CallTool, Reply, Rule, Say, ScriptedModel, Think, TokenUsage

pytestmark = pytest.mark.opencode

RULES = [
    Rule(
        "think about it",
        [
            Reply(
                Think("let me see"),
                CallTool("bash", {"command": "echo one"}),
                CallTool("bash", {"command": "echo two"}),
                usage=TokenUsage(input_tokens=100, output_tokens=20, reasoning_tokens=5, cached_tokens=30),
            ),
            Say("thought"),
        ],
    )
]
MODEL_KEY = "key-of-the-model"


class Server:
    """A running OpenCode and its client, with one call: a turn in a session of its own."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def turn(self, prompt: str, provider: str = "scripted") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The last message's info, and the parts of all the assistant's messages."""
        session = (await self.client.post("/session", json={})).json()["id"]
        model = {"providerID": provider, "modelID": "demo"}
        body = {"parts": [{"type": "text", "text": prompt}], "model": model}
        info = (await self.client.post(f"/session/{session}/message", json=body)).json()["info"]
        messages = (await self.client.get(f"/session/{session}/message")).json()
        parts = [part for each in messages if each["info"]["role"] == "assistant" for part in each["parts"]]
        return info, parts

    async def stuck_turn(self, prompt: str, status: str, model: ScriptedModel) -> dict[str, Any]:
        """Send a prompt whose turn cannot end, wait for that status of its session, and abort it."""
        session = (await self.client.post("/session", json={})).json()["id"]
        body = {"parts": [{"type": "text", "text": prompt}]}
        await self.client.post(f"/session/{session}/prompt_async", json=body)
        with anyio.fail_after(20):
            while prompt not in model.prompts or (state := await self.status(session)).get("type") != status:
                await anyio.sleep(0.05)
        await self.client.post(f"/session/{session}/abort")
        return state

    async def status(self, session: str) -> dict[str, Any]:
        """Its state as OpenCode reports it; empty when idle."""
        state: dict[str, Any] = (await self.client.get("/session/status")).json().get(session, {})
        return state


@asynccontextmanager
async def opencode(binary: Path, home: Path, config: dict[str, Any]) -> AsyncIterator[Server]:
    """A bare OpenCode on loopback, without a password, working in ``home/workspace``."""
    await anyio.Path(home / "workspace").mkdir()
    await anyio.Path(home / "opencode.json").write_text(json.dumps(config))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENCODE_CONFIG": str(home / "opencode.json"),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    }
    argv = [str(binary), "serve", "--hostname", "127.0.0.1", "--port", "0"]
    async with await anyio.open_process(
        argv, env=environment, cwd=home / "workspace", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            async with httpx.AsyncClient(base_url=await _address(process), timeout=60) as client:
                yield Server(client)
        finally:
            process.kill()


async def _address(process: Process) -> str:
    """The address OpenCode says it listens on."""
    assert process.stdout is not None
    told = ""
    with anyio.fail_after(60):
        async for part in process.stdout:
            told += part.decode()
            if "http://" in told and told.endswith("\n"):
                return told[told.index("http://") :].split()[0]
    raise AssertionError(f"OpenCode ended: {told}")


async def test_opencode_plays_every_script(opencode_binary: Path, tmp_path: Path) -> None:
    """Tools run, usage and titles arrive, errors are told, a passing one is retried, and what hangs or breaks can be aborted."""
    async with ScriptedModel(RULES, api_key=MODEL_KEY) as model:
        wrong = model.provider_config("wrong", api_key="another-key")["provider"]
        config: dict[str, Any] = {"permission": "allow", "model": model.model}
        config |= model.provider_config(api_key=MODEL_KEY)
        config["provider"] |= wrong
        async with opencode(opencode_binary, tmp_path, config) as server:
            await _tools_run(server, model, tmp_path / "workspace")
            await _usage_arrives(server)
            await _errors_are_told(server, model)
            await _broken_turns_can_be_aborted(server, model)


async def _tools_run(server: Server, model: ScriptedModel, workspace: Path) -> None:
    prompt = "write: hello.txt\n  Hello\nbash: cat hello.txt && echo from bash > second.txt\nsay: It is there."
    info, parts = await server.turn(prompt)
    tools = [(part["tool"], part["state"]["status"]) for part in parts if part["type"] == "tool"]
    assert tools == [("write", "completed"), ("bash", "completed")]
    assert (info["finish"], parts[-2]["text"]) == ("stop", "It is there.")
    assert (workspace / "hello.txt").read_text() == "Hello\n"
    assert (workspace / "second.txt").read_text() == "from bash\n"
    assert [each.number for each in model.requests if not each.is_title] == [0, 1, 2]
    assert sum(each.is_title for each in model.requests) == 1
    session = (await server.client.get(f"/session/{info['sessionID']}")).json()
    assert session["title"] == "A scripted session"
    assert {each.session_id for each in model.requests} == {info["sessionID"]}


async def _usage_arrives(server: Server) -> None:
    _, parts = await server.turn("think about it")
    kinds = [part["type"] for part in parts if part["type"] in {"reasoning", "tool", "text"}]
    assert kinds == ["reasoning", "tool", "tool", "text"]
    tokens = next(part["tokens"] for part in parts if part["type"] == "step-finish")
    assert (tokens["input"], tokens["cache"]["read"], tokens["reasoning"]) == (70, 30, 5)
    assert tokens["output"] + tokens["reasoning"] == 20


async def _errors_are_told(server: Server, model: ScriptedModel) -> None:
    refused, _ = await server.turn("say: never seen", provider="wrong")
    assert (refused["error"]["name"], refused["error"]["data"]["statusCode"]) == ("APIError", 401)
    failed, _ = await server.turn("fail: 400 no such thing")
    assert failed["error"]["data"]["message"] == "no such thing"
    garbled, _ = await server.turn("malformed")
    assert "JSON" in garbled["error"]["data"]["message"]
    before = len(model.prompts)
    retried, parts = await server.turn("fail: 429 x1 slow down\nsay: recovered")
    assert (retried["finish"], parts[-2]["text"]) == ("stop", "recovered")
    assert len(model.prompts) == before + 1


async def _broken_turns_can_be_aborted(server: Server, model: ScriptedModel) -> None:
    for prompt, message in (("fail: 500 broken", "broken"), ("cut: half a", "(?i)connection (reset|was closed)")):
        state = await server.stuck_turn(prompt, "retry", model)
        assert re.search(message, state["message"])
    for prompt in ("hang", "say: begun\nhang"):
        await server.stuck_turn(prompt, "busy", model)
    info, _ = await server.turn("say: well again")
    assert info["finish"] == "stop"
