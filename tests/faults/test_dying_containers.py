"""A container that dies under its agent: told at once, in plain words, and the next run works (FAILURES row 15).

One agent goes through all of it, in the order of this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import (
    AgentSpec,
    Message,
    Outcome,
    Runner,
    RunnerManager,
    RunnerStatus,
    RunRequest,
    RunResult,
    Settings,
)
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]


def ask(prompt: str, **more: Any) -> RunRequest:
    return RunRequest(messages=[Message(role="user", content=prompt)], **more)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One install for this file."""
    return Settings(data_dir=tmp_path_factory.mktemp("dying") / "data", fetch_models=False)


@pytest.fixture(scope="module")
async def runner(settings: Settings, model: ScriptedModel) -> AsyncIterator[Runner]:
    """A warm agent."""
    provider = model.provider_config(host="host.docker.internal")
    async with RunnerManager(settings) as manager:
        runner = await manager.create_runner(AgentSpec(agent_id="alice", model=model.model, opencode=provider))
        assert (await runner.run(ask("say: warm"))).success
        yield runner
        await manager.purge()


async def docker(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec("docker", *argv, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


async def killed_in_mid_turn(runner: Runner, *command: str, **more: Any) -> RunResult:
    """Run a turn and end the container once its tool runs."""
    async with aclosing(runner.stream(ask("bash: sleep 120\nsay: never", **more))) as events:
        async for event in events:
            if event.type == "tool_started":
                await docker(*command, runner.record.handle or "")
                with anyio.fail_after(60):
                    async for last in events:
                        if last.type == "ended":
                            return last.result
    raise AssertionError("the run had no end")


async def test_f15_a_killed_container_fails_its_run_and_the_next_one_goes_on_with_the_whole_session(
    runner: Runner, model: ScriptedModel
) -> None:
    """The run ends as failed at once, with what happened; the next run of the task has the same session, nothing of it lost."""
    result = await killed_in_mid_turn(runner, "kill")
    assert result.error is not None
    assert (result.outcome, result.error.code, result.error.retryable) == (Outcome.FAILED, "instance_died", True)
    assert "killed by signal 9" in result.error.message
    assert runner.status is RunnerStatus.FAILED
    again = await runner.run(ask("say: recovered"))
    assert (again.output, again.session_id) == ("recovered", result.session_id)
    assert runner.record.generation == 2
    live, _ = await runner._usable().instances.ensure(await runner._usable().install.store.get_agent("alice"))
    messages = await live.client.messages(again.session_id or "")
    assert [m.text for m in messages if m.role == "user"] == [
        "say: warm",
        "bash: sleep 120\nsay: never",
        "say: recovered",
    ]


async def test_f16_a_container_removed_by_hand_in_mid_turn_costs_a_run_that_resumes_nothing(runner: Runner) -> None:
    """Even after ``docker rm -f`` the agent goes on, in the same session; it is told what happened, and no prompt is sent twice."""
    generation = runner.record.generation
    result = await killed_in_mid_turn(runner, "rm", "-f", on_interrupt="resume", task_id="resumed")
    assert (result.outcome, result.error) == (Outcome.SUCCEEDED, None)
    assert runner.record.generation == generation + 1
    live, _ = await runner._usable().instances.ensure(await runner._usable().install.store.get_agent("alice"))
    messages = await live.client.messages(result.session_id or "")
    first, second = [message.text for message in messages if message.role == "user"]
    assert first == "bash: sleep 120\nsay: never"
    assert second.startswith("Your last turn was interrupted while the tool bash ran")
    assert [message.cut_off_tool for message in messages].count("bash") == 1
    assert not any(message.has_running_tool for message in messages)
    assert (await runner.run(ask("say: again"))).output == "again"


async def test_abort_and_timeout_end_the_turn_and_leave_the_agent_usable(runner: Runner) -> None:
    """The tool is dead, the outcome says who ended it, the session goes on."""
    timed_out = await runner.run(ask("bash: sleep 120\nsay: never", timeout=timedelta(seconds=3)))
    assert timed_out.outcome is Outcome.TIMED_OUT
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_when_running, runner, scope)
            await runner.run(ask("bash: sleep 121\nsay: never"))
    (cancelled, *_) = await runner._usable().install.store.list_runs("alice")
    assert cancelled.result is not None
    assert cancelled.result.outcome is Outcome.ABORTED
    left = await runner.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 12[01]' || true"])
    assert left.output.decode().split()[-1] in {"0", "1"}, "the sleep of an aborted turn still runs"
    assert (await runner.run(ask("say: usable"))).output == "usable"


async def test_an_idle_container_that_dies_shows_as_failed_without_being_asked(runner: Runner) -> None:
    """Events tell it, nobody polls; the reason is kept."""
    await docker("kill", runner.record.handle or "")
    with anyio.fail_after(10):
        while runner.status is not RunnerStatus.FAILED:
            await anyio.sleep(0.02)
    assert "signal 9" in (runner.record.reason or "")


async def test_a_stop_from_elsewhere_ends_the_turn_as_aborted(runner: Runner, settings: Settings) -> None:
    """Another manager's wish is heard by the one that drives the turn; afterwards the agent is stopped and usable."""
    assert (await runner.run(ask("say: here"))).success
    results: list[RunResult] = []

    async def run() -> None:
        results.append(await runner.run(ask("bash: sleep 120\nsay: never")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while runner.status is not RunnerStatus.RUNNING:
            await anyio.sleep(0.02)
        async with RunnerManager(settings) as other:
            await other.stop_runner("alice")
            assert (await other.get_runner("alice")).status is RunnerStatus.STOPPED
    assert results[0].outcome is Outcome.ABORTED
    assert (await runner.run(ask("say: up again"))).output == "up again"


async def cancel_when_running(runner: Runner, scope: anyio.CancelScope) -> None:
    while runner.status is not RunnerStatus.RUNNING:
        await anyio.sleep(0.02)
    await anyio.sleep(1)
    scope.cancel()
