"""An agent moves from one data folder to another: real containers, the real OpenCode and its database."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest, RunResult, Settings
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.runner import Runner
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

KEY = "sk-planted-0451-archive"


class Heard(ArchiveListener):
    """What was worth knowing."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A model where containers reach it, that answers to the planted key alone."""
    async with ScriptedModel(host="0.0.0.0", api_key=KEY) as scripted:
        yield scripted


def settings(data_dir: Path, image: str) -> Settings:
    return Settings(data_dir=data_dir, image=image, fetch_models=False)


async def say(runner: Runner, text: str) -> RunResult:
    result = await runner.run(RunRequest(messages=[Message(role="user", content=text)]))
    assert result.success, result.error
    return result


async def test_an_agent_goes_on_with_its_session_on_another_data_folder(
    tmp_path: Path, runner_image: str, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported while it runs, imported elsewhere: the same session, its history, its files; and no secret in between."""
    monkeypatch.setenv("PLANTED_KEY", KEY)
    config = model.provider_config(host="host.docker.internal")
    config["provider"][model.model.partition("/")[0]]["options"]["apiKey"] = "${MODEL_KEY}"
    spec = AgentSpec(agent_id="alice", model=model.model, opencode=config, secrets={"MODEL_KEY": "env:PLANTED_KEY"})
    archive, heard = tmp_path / "alice.tar.gz", Heard()
    async with RunnerManager(settings(tmp_path / "here", runner_image)) as here:
        runner = await here.create_runner(spec)
        first = await say(runner, "write: notes.txt\n  mine\nsay: written")
        instance = runner.record.instance_id
        await here.export_agent("alice", archive, listener=heard)
        again = await say(runner, "say: still here")
        assert (again.session_id, runner.record.instance_id) == (first.session_id, instance)
        await here.purge()
    assert heard.warnings == []
    assert KEY.encode() not in gzip.decompress(archive.read_bytes())

    asked_before = len(model.requests)
    async with RunnerManager(settings(tmp_path / "there", runner_image)) as there:
        moved = await there.import_agent(archive, listener=heard)
        second = await say(moved, "read: notes.txt\nsay: read")
        live = there._usable().instances.last_used("alice")
        assert live is not None
        server = live.client
        history = [
            message.text for message in await server.messages(first.session_id or "") if message.role == "assistant"
        ]
        await there.purge()
    assert heard.warnings == []
    assert second.session_id == first.session_id
    assert second.output == "read"
    assert [text for text in history if text] == ["written", "read"]
    assert {request.session_id for request in model.requests[asked_before:]} == {first.session_id}
