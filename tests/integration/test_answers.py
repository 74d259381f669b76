"""Permissions and questions on the real OpenCode: what its configuration replies to, what is asked, and who answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Message, Outcome, Runner, RunnerManager, RunRequest, RunResult, Settings
from cnap_runner.model.answers import PendingAnswer
from cnap_runner.model.events import (
    PermissionRaised,
    QuestionRaised,
    RequestAnswered,
    RunEnded,
    RunEvent,
    ToolFailed,
    ToolFinished,
)
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = pytest.mark.opencode

ASK_COLOR = (
    'call: question {"questions": [{"question": "Which color?", "header": "Color", "options": '
    '[{"label": "red", "description": "warm"}, {"label": "blue", "description": "cold"}]}]}\nsay: painted'
)


@dataclass
class House:
    """One agent with rules, the manager that drives it, and what its last run told."""

    manager: RunnerManager
    spec: dict[str, Any]
    events: list[RunEvent]

    async def runner(self, **answers: Any) -> Runner:
        return await self.manager.create_runner(AgentSpec(**self.spec, answers=answers))

    async def run(self, runner: Runner, prompt: str) -> RunResult:
        self.events.clear()
        with anyio.fail_after(60):
            async for event in runner.stream(RunRequest(messages=[Message(role="user", content=prompt)])):
                self.events.append(event)
        assert isinstance(event, RunEnded)
        return event.result

    def told(self, kind: type[RunEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory, opencode_binary: Path) -> AsyncIterator[House]:
    """One boot of OpenCode for all that follows; changed rules are taken up by the running server."""
    assert opencode_binary.is_file()
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ScriptedModel(api_key="key-of-the-tests"))
        settings = Settings(data_dir=tmp_path_factory.mktemp("answers") / "data", backend="process", stop_timeout=2)
        manager = await stack.enter_async_context(RunnerManager(settings))
        (key := tmp_path_factory.mktemp("keys") / "model.key").write_text("key-of-the-tests")
        config = model.provider_config(api_key="${MODEL_KEY}")
        yield House(
            manager,
            {"agent_id": "alice", "model": model.model, "opencode": config, "secrets": {"MODEL_KEY": f"file:{key}"}},
            [],
        )


async def waiting(runner: Runner) -> PendingAnswer:
    with anyio.fail_after(30):
        while not (found := await runner.pending_answers()):
            await anyio.sleep(0.05)
    return found[0]


async def test_f13_rules_reply_by_themselves_and_a_rejection_does_not_end_the_turn(house: House) -> None:
    """What is allowed or rejected is not even asked; the question tool is off, and the agent goes on."""
    runner = await house.runner(permissions={"bash": "allow", "bash:rm *": "reject"})
    result = await house.run(runner, f"bash: echo fine\nbash: rm -f important\n{ASK_COLOR}")
    assert (result.error, result.output) == (None, "painted")
    assert [event.output.strip() for event in house.told(ToolFinished)][:1] == ["fine"]
    assert "rule" in house.told(ToolFailed)[0].error
    assert house.told(PermissionRaised) == house.told(QuestionRaised) == []


async def test_f13_rules_that_opencode_cannot_keep_in_order_are_replied_to_by_the_manager(house: House) -> None:
    """What the template allows stays allowed, and a pattern of what takes none in OpenCode does not spoil its configuration."""
    rules = {"bash": "allow", "*:*secret*": "reject", "webfetch:*evil*": "reject", "bash:~/bin/* *": "reject"}
    runner = await house.runner(permissions=rules)
    home = AgentFolders(house.manager.settings.data_dir, "alice").home
    commands = ("echo fine", "cat secret", f"{home}/bin/x y")
    result = await house.run(runner, "\n".join(f"bash: {command}" for command in commands) + "\nsay: done")
    assert (result.error, result.output) == (None, "done")
    assert [event.output.strip() for event in house.told(ToolFinished)] == ["fine"]
    assert ["rules" in event.error for event in house.told(ToolFailed)] == [True, True]
    assert all(event.deadline is None for event in house.told(PermissionRaised))


async def test_another_process_answers_what_is_asked(house: House) -> None:
    """By the command line: a permission, then a question with several labels; the turn goes on with the replies."""
    runner = await house.runner(permissions={"bash": "ask"}, questions="ask", deadline="5m")
    data_dir = house.manager.settings.data_dir
    results: list[RunResult] = []

    async def run() -> None:
        results.append(await house.run(runner, f"bash: echo pushed\n{ASK_COLOR}"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        first = await waiting(runner)
        assert first.text == "bash: echo pushed"
        listed = await command_line(data_dir, "answers", "ls", "--json")
        assert first.request_id in listed
        await command_line(data_dir, "answers", "reply", "alice", "allow")
        with anyio.fail_after(30):
            while (second := await waiting(runner)).request_id == first.request_id:
                await anyio.sleep(0.05)
        assert second.text == "Which color?"
        await runner.answer(second.request_id, [["red", "blue"]])
    assert (results[0].success, results[0].output) == (True, "painted")
    assert house.told(ToolFinished)[0].output.strip() == "pushed"
    assert '"Which color?"="red, blue"' in house.told(ToolFinished)[1].output
    assert [event.reply for event in house.told(RequestAnswered)] == ["allow", "answer"]
    assert await runner.pending_answers() == []


async def test_f13_nobody_answers_and_the_turn_goes_on_at_the_deadline(house: House) -> None:
    """The permission is rejected with the reason, the question dismissed; both are told to the agent, which ends its turn by itself."""
    runner = await house.runner(permissions={"edit": "ask"}, questions="ask", deadline="300ms")
    result = await house.run(runner, f"write: x.txt\n  x\n{ASK_COLOR}")
    assert (result.error, result.output) == (None, "painted")
    rejected, dismissed = [event.error for event in house.told(ToolFailed)]
    assert "Nobody answered in time" in rejected
    assert "dismissed" in dismissed
    assert [event.reply for event in house.told(RequestAnswered)] == ["reject", "reject"]


async def test_an_aborted_wait_leaves_nothing_to_the_next_turn(house: House) -> None:
    """OpenCode lists it for ever (docs/opencode.md); the next turn asks for its own alone."""
    runner = await house.runner(permissions={"bash": "ask"}, deadline="5m")
    results: list[RunResult] = []

    async def run(prompt: str) -> None:
        results.append(await house.run(runner, prompt))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "bash: echo one\nsay: never")
        first = await waiting(runner)
        await runner.abort()
    assert results[0].outcome is Outcome.ABORTED
    assert await runner.pending_answers() == []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "bash: echo two\nsay: after all")
        second = await waiting(runner)
        assert [pending.request_id for pending in await runner.pending_answers()] == [second.request_id]
        await runner.answer(second.request_id, "allow")
    assert second.request_id != first.request_id
    assert (results[1].success, results[1].output) == (True, "after all")


async def command_line(data_dir: Path, *arguments: str) -> str:
    argv = [sys.executable, "-m", "cnap_runner", "--data-dir", str(data_dir), "--backend", "process", *arguments]
    done = await anyio.run_process(argv, check=False, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
