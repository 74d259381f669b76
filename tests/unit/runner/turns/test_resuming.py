"""Turns that were interrupted: what their callers are told, and how they go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio

from cnap_runner import AgentSpec, Outcome, RunnerManager, RunRequest, RunResult
from cnap_runner.model.events import RunEvent, ToolStarted
from cnap_runner.model.ids import new_id
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.run import RunRecord
from cnap_runner.opencode.wire import Prompt
from cnap_runner.runner.turns.callbacks import StatusCallback
from cnap_runner.store.base import NewRun, WishKind
from cnap_runner.testing.fake_opencode import HangingOpenCode
from cnap_runner.testing.fake_opencode.script import Say, UseTool
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]
ENDLESS = UseTool("bash", {"command": "make"}, is_endless=True)


class Until(StatusCallback):
    """Sets an event when a tool starts."""

    def __init__(self) -> None:
        self.tools = 0
        self.changed = anyio.Event()

    async def on_event(self, task_id: str, event: RunEvent) -> None:
        if isinstance(event, ToolStarted):
            self.tools += 1
            self.changed.set()
            self.changed = anyio.Event()

    async def tool(self, number: int) -> None:
        with anyio.fail_after(10):
            while self.tools < number:
                await self.changed.wait()


async def interrupted(
    house: House, manager: RunnerManager, request: RunRequest, *, times: int = 1
) -> tuple[RunResult, RunRecord]:
    """Do a run whose instance is killed so many times while a tool runs."""
    runner = await manager.get_runner("alice")
    heard, results = Until(), []

    async def run() -> None:
        results.append(await runner.run(request, heard))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        for number in range(1, times + 1):
            await heard.tool(number)
            await house.kill()
    (result,) = results
    return result, await manager.get_run(result.run_id)


async def test_an_interrupted_turn_says_at_which_tool_and_fails_by_default(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """The verdict is true and whole: what ended it, and what ran then. Nothing is sent again."""
    await manager.create_runner(spec)
    house.script([Say("Let me build. "), ENDLESS])
    result, _ = await interrupted(house, manager, ask("build"))
    assert result.error is not None
    assert (result.outcome, result.error.code, result.error.tool) == (Outcome.FAILED, "instance_died", "bash")
    assert result.error.message == "The agent's instance ended while the tool bash ran: it was killed by signal 9."
    assert (result.error.retryable, house.prompts) == (True, ["build"])


async def test_f16_on_interrupt_resume_tells_the_agent_in_the_same_session_and_sends_nothing_twice(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """One run, one result, one session; the second prompt says what happened and asks to go on."""
    await manager.create_runner(spec)
    await manager.start_runner("alice")
    house.script([Say("Let me build. "), ENDLESS])
    house._turns.append([Say("Built.")])
    result, run = await interrupted(house, manager, ask("build", on_interrupt="resume", system_prompt="Be brief."))
    assert (result.outcome, result.output, result.error) == (Outcome.SUCCEEDED, "Built.", None)
    first, second = house.prompts
    assert first == "build"
    assert second.startswith("Your last turn was interrupted while the tool bash ran")
    assert "killed by signal 9" in second
    assert len(house.servers["alice"].sessions) == 1
    assert house.servers["alice"].bodies[-1]["system"] == "Be brief."
    assert (run.resumes, run.session_id) == (1, result.session_id)
    told = [d for d in await (await manager.get_runner("alice")).explain() if d.kind is DecisionKind.RECOVERED]
    assert [(d.evidence["cause"], d.evidence["tool"]) for d in told] == [("turn", "bash")]


async def test_a_turn_goes_on_only_so_often(house: House, spec: AgentSpec, ask: Ask) -> None:
    """An agent whose work kills its container again and again ends with the verdict, not never."""
    async with house.manager(max_retries=2) as manager:
        await manager.create_runner(spec)
        house.script([ENDLESS])
        serve = house._serve

        async def serve_endlessly(spec: Any) -> str:
            house._turns.append([ENDLESS])
            return await serve(spec)

        await manager.start_runner("alice")
        house.servers["alice"].script([ENDLESS])
        house.backend._serve = serve_endlessly
        result, run = await interrupted(house, manager, ask("build", on_interrupt="resume"), times=3)
    assert result.error is not None
    assert (result.error.code, run.resumes, len(house.prompts)) == ("instance_died", 2, 3)
    assert house.prompts.count("build") == 1


async def test_what_cannot_go_on_ends_with_both_reasons(house: House, spec: AgentSpec, ask: Ask) -> None:
    """The interruption, and why the agent could not be started again; still a result, for the prompt was sent."""
    async with house.manager(crash_limit=1) as manager:
        await manager.create_runner(spec)
        house.script([ENDLESS])
        result, _ = await interrupted(house, manager, ask("build", on_interrupt="resume"))
    assert result.error is not None
    assert result.error.code == "instance_died"
    assert "killed by signal 9" in result.error.message
    assert "is not started since" in result.error.message


# --- after the manager that drove the run was killed too ------------------------------------------------------------------


async def left_behind(house: House, spec: AgentSpec, *, resumes: int = 0) -> tuple[str, str]:
    """A run in mid-turn whose manager and instance are dead; its id and its session's."""
    async with house.manager(on_shutdown="leave") as manager:
        await manager.create_runner(spec)
        runner = await manager.start_runner("alice")
        session_id = house.servers["alice"].add_session()
        store = manager._usable().install.store
        await store.set_session("alice", "main", session_id)
        at = datetime.now(UTC)
        new = NewRun(
            run_id=new_id("run"),
            agent_id="alice",
            task_id="main",
            owner="m-dead",
            fingerprint="f",
            idempotency_key=None,
            model=None,
            created_at=at,
            on_interrupt="resume",
        )
        run = (await store.enter_run(new, must_be_alone=False)).run
        assert await store.claim_turn(run, at=at, is_alive=lambda _: True)
        instance_id = runner.record.instance_id or ""
        sent = await store.mark_sending(
            run, session_id=session_id, instance_id=instance_id, after_message_id=None, at=at
        )
        assert isinstance(sent, RunRecord)
        house.script([Say("Let me build. "), ENDLESS])
        client = manager._usable().install.client_for(house.servers["alice"].base_url, instance_id)
        await client.send_prompt(session_id, Prompt(("build",)))
        with anyio.fail_after(5):
            while not (messages := await client.messages(session_id)) or not messages[-1].has_running_tool:
                await anyio.sleep(0.01)
        if resumes:
            # It died just after it wrote that the agent is about to be told to go on.
            again = await store.mark_resuming(sent, instance_id=instance_id, resumed_after=messages[-1].id)
            assert isinstance(again, RunRecord)
        await client.aclose()
        await house.kill()
    return new.run_id, session_id


async def test_a_run_whose_caller_is_gone_goes_on_after_a_restart(house: House, spec: AgentSpec) -> None:
    """What was wanted of it is in the ledger; the next manager tells the agent, and the result waits for whoever asks."""
    run_id, session_id = await left_behind(house, spec)
    house._turns.append([Say("Built.")])
    async with house.manager() as manager:
        result = await manager.wait_run(run_id)
        with anyio.fail_after(5):
            while DecisionKind.SETTLED not in {decision.kind for decision in await manager.explain("alice")}:
                await anyio.sleep(0.01)  # it is written down after it has ended
    assert (result.outcome, result.output, result.session_id) == (Outcome.SUCCEEDED, "Built.", session_id)
    first, second = house.prompts
    assert (first, second[:26]) == ("build", "Your last turn was interru")


async def test_killed_while_it_told_the_agent_to_go_on_is_never_taken_for_not_sent(
    house: House, spec: AgentSpec
) -> None:
    """The first prompt was sent: whoever has its key must not send it again. The agent is told once more instead."""
    run_id, _ = await left_behind(house, spec, resumes=1)
    house._turns.append([Say("Built.")])
    async with house.manager() as manager:
        result = await manager.wait_run(run_id)
        run = await manager.get_run(run_id)
    assert (result.outcome, run.resumes) == (Outcome.SUCCEEDED, 2)
    assert house.prompts.count("build") == 1


async def test_a_wish_ends_a_run_before_it_is_resumed(house: House, spec: AgentSpec) -> None:
    """Somebody who asked to abort meanwhile gets just that: the agent is told nothing more."""
    run_id, _ = await left_behind(house, spec)
    async with house.manager(is_observer=True) as manager:
        await manager._usable().install.store.add_wish("alice", WishKind.ABORT, task_id="main", at=datetime.now(UTC))
    async with house.manager() as manager:
        result = await manager.wait_run(run_id)
    assert result.outcome is Outcome.ABORTED
    assert house.prompts == ["build"]


async def test_an_abort_while_the_agent_is_started_anew_ends_the_run(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """It need not wait until the agent could go on; what was sent is not denied: it is a result."""
    await manager.create_runner(spec)
    runner = await manager.start_runner("alice")
    house.script([Say("Let me build. "), ENDLESS])
    heard, results = Until(), []

    async def run() -> None:
        results.append(await runner.run(ask("build", on_interrupt="resume"), heard))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await heard.tool(1)
        house.make_server = HangingOpenCode
        await house.kill()
        with anyio.fail_after(5):
            while house.starts != ["alice", "alice"]:
                await anyio.sleep(0.01)
        await runner.abort()
    (result,) = results
    assert (result.outcome, result.output) == (Outcome.ABORTED, "Let me build. ")
    assert house.prompts == ["build"]
