"""A manager that is killed loses nothing, and nothing is sent twice (DESIGN §4, FAILURES rows 12, 16).

One agent goes through all of it, in the order of this file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cnap_runner import AgentSpec, Message, Outcome, RunnerManager, RunRequest, RunState, Settings
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]


def ask(prompt: str, **more: Any) -> RunRequest:
    return RunRequest(messages=[Message(role="user", content=prompt)], **more)


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """One install for this file, whose agent stays warm between its tests."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("killed") / "data", fetch_models=False, on_shutdown="leave")
    yield settings
    async with RunnerManager(settings) as manager:
        await manager.purge()


async def test_f16_killed_in_mid_turn_the_next_manager_finishes_the_entry_and_sends_nothing_again(
    drive: Any, settings: Settings, model: ScriptedModel
) -> None:
    """The container goes on with the turn; the next manager adopts it and ends the entry with the turn's true result."""
    prompt = "bash: sleep 3; echo f16 > f16.txt\nsay: written after the kill"
    driver = await drive(prompt)
    await driver.next_line(type="tool_started")
    await driver.kill()
    async with RunnerManager(settings) as manager:
        (run, *_) = await manager.list_runs("alice")
        before = (await manager.get_runner("alice")).record.instance_id
        result = await manager.wait_run(run.run_id)
        after = (await manager.get_runner("alice")).record.instance_id
    assert (result.outcome, result.output) == (Outcome.SUCCEEDED, "written after the kill")
    assert (settings.data_dir / "workspace/alice/f16.txt").read_text() == "f16\n"
    assert before == after
    assert model.prompts.count(prompt) == 1


async def test_f12_killed_together_with_its_container_the_run_is_interrupted_and_the_session_goes_on(
    drive: Any, settings: Settings, spec: dict[str, Any], model: ScriptedModel
) -> None:
    """The next manager reads from the session, in a new instance, that the turn stopped in mid-answer. The task works on."""
    prompt = "bash: sleep 60\nsay: never said f12"
    driver = await drive(prompt)
    await driver.next_line(type="tool_started")
    await driver.kill()
    async with RunnerManager(settings, is_observer=True) as manager:
        await kill_container(manager)
    async with RunnerManager(settings) as manager:
        runner = await manager.create_runner(AgentSpec(**spec))
        again = await runner.run(ask("say: back again"))
        (_, first, *_) = await manager.list_runs("alice")
    assert first.result is not None
    assert first.result.error is not None
    assert (first.result.outcome, first.result.error.code) == (Outcome.FAILED, "interrupted")
    assert (again.success, again.output) == (True, "back again")
    assert again.session_id == first.result.session_id
    assert model.prompts.count(prompt) == 1


async def test_the_head_of_the_queue_killed_before_sending_is_settled_by_who_waits(
    drive: Any, settings: Settings, spec: dict[str, Any], model: ScriptedModel
) -> None:
    """The waiting run of another process notices within a second, settles the dead one as not sent, and goes on."""
    async with RunnerManager(settings) as manager:
        await manager.stop_runner("alice")
    first = await drive("say: from the dead")
    await first.next_line(type="status", state=RunState.STARTING)
    second = await drive("say: from the living")
    await second.next_line(type="status", state=RunState.QUEUED)
    await first.kill()
    ended = await second.next_line(type="ended")
    assert (ended["outcome"], ended["output"]) == ("succeeded", "from the living")
    await second.ended()
    async with RunnerManager(settings, is_observer=True) as manager:
        (_, dead, *_) = await manager.list_runs("alice")
    assert dead.result is not None
    assert dead.result.error is not None
    assert (dead.result.error.code, dead.result.error.retryable) == ("not_sent", True)
    assert "say: from the dead" not in model.prompts


async def kill_container(manager: RunnerManager, agent_id: str = "alice") -> None:
    """End an agent's container as an operator's ``docker kill`` does."""
    import asyncio

    handle = (await manager.get_runner(agent_id)).record.handle
    assert handle is not None
    process = await asyncio.create_subprocess_exec("docker", "kill", handle, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0
