"""The look at a session that is taken while the run's entry is written: it saves time, and is never believed too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest, RunState, StatusCallback
from cnap_runner.errors import InsufficientResources
from cnap_runner.runner.turns import runs as runs_module
from cnap_runner.runner.turns.head_start import Claimed, HeadStart, take_head_start
from cnap_runner.store.base import TurnContext

Ask = Callable[..., RunRequest]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[HeadStart | None]:
    """Each head start that a run took, in order."""
    taken: list[HeadStart | None] = []

    async def noted(*arguments: Any) -> HeadStart | None:
        taken.append(await take_head_start(*arguments))
        return taken[-1]

    monkeypatch.setattr(runs_module, "take_head_start", noted)
    return taken


async def given(ahead: HeadStart | None) -> HeadStart | None:
    return ahead


async def context_of(manager: RunnerManager) -> TurnContext:
    return await manager._usable().install.store.turn_context("alice", "main")


async def test_the_next_turn_of_a_task_asks_the_session_once(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: Ask, taken: list[HeadStart | None]
) -> None:
    """From the second turn on the session is looked at early, and not again."""
    runner = await manager.create_runner(spec)
    for prompt in ("one", "two", "three"):
        await runner.run(ask(prompt))
    assert [ahead is not None for ahead in taken] == [False, True, True]
    server = house.servers["alice"]
    assert server.requests.count("GET /session/status") == 2
    assert server.prompts == ["one", "two", "three"]


async def test_another_task_is_looked_at_under_the_lease(
    manager: RunnerManager, spec: AgentSpec, ask: Ask, taken: list[HeadStart | None]
) -> None:
    """Only the session of the last turn is known well enough."""
    runner = await manager.create_runner(spec)
    for task_id in ("a", "b", "a"):
        assert (await runner.run(ask(task_id, task_id=task_id))).success
    assert taken == [None] * 3


async def test_a_turn_of_another_manager_makes_it_void(
    house: Any, spec: AgentSpec, ask: Ask, taken: list[HeadStart | None]
) -> None:
    """Somebody else's turn that ended in between shows in the claimed entry; then the session is looked at again."""
    async with house.manager() as one, house.manager() as two:
        runner = await one.create_runner(spec)
        await runner.run(ask("one"))
        before = await context_of(one)
        live = one._usable().instances.last_used("alice")
        assert live is not None
        ahead = await take_head_start(live, "main")
        assert ahead is not None
        assert await Claimed(before, given(ahead)).rest_of(live) == ahead.rest

        result = await (await two.get_runner("alice")).run(ask("two"))
        assert await Claimed(await context_of(one), given(ahead)).rest_of(live) is None
        assert (await runner.run(ask("three"))).session_id == result.session_id
    assert house.prompts == ["one", "two", "three"]


async def test_what_was_seen_counts_for_that_instance_and_session_alone(
    manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Another instance, another session, or another end of the last turn: void."""
    await (await manager.create_runner(spec)).run(ask())
    live = manager._usable().instances.last_used("alice")
    assert live is not None
    ahead = await take_head_start(live, "main")
    context = await context_of(manager)
    assert await Claimed(context, given(ahead)).rest_of(live) is not None
    assert await Claimed(context, None).rest_of(live) is None
    assert await Claimed(context, given(ahead)).rest_of(replace(live)) is None
    assert await Claimed(replace(context, session_id="ses_other"), given(ahead)).rest_of(live) is None
    ended = context.agent.last_active_at
    assert ended is not None
    later = replace(context.agent, last_active_at=ended + timedelta(microseconds=1))
    assert await Claimed(replace(context, agent=later), given(ahead)).rest_of(live) is None


async def test_a_server_that_is_gone_gives_no_head_start(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Nothing is raised; the run itself finds out."""
    await (await manager.create_runner(spec)).run(ask())
    await house.servers["alice"].kill()
    assert await take_head_start(manager._usable().instances.last_used("alice"), "main") is None
    assert await take_head_start(None, "main") is None


async def test_a_prompt_goes_where_it_was_written_that_it_goes(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second turn on that the prompt is about to leave is written with its entry; where it then goes elsewhere, that is written."""
    runner = await manager.create_runner(spec)
    await runner.run(ask("one"))
    parts = manager._usable()
    marked: list[str] = []
    mark_sending = parts.install.store.mark_sending

    async def noted(run: Any, **where: Any) -> Any:
        marked.append(where["after_message_id"])
        return await mark_sending(run, **where)

    monkeypatch.setattr(parts.install.store, "mark_sending", noted)
    await runner.run(ask("two"))
    assert marked == []

    live = parts.instances.last_used("alice")
    assert live is not None
    assert live.last_turn is not None
    live.last_turn = replace(live.last_turn, last_message_id="msg_000")
    await runner.run(ask("three"))
    (run, *_) = await manager.list_runs("alice")
    assert marked == [run.after_message_id]
    assert run.after_message_id != "msg_000"
    assert house.prompts == ["one", "two", "three"]


async def test_a_turn_that_never_left_gives_its_agent_back(
    manager: RunnerManager, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after its entry was written as sending: it is not sent, the agent is ready, and the next turn works."""
    runner = await manager.create_runner(spec)
    await runner.run(ask("one"))

    async def refuse(_: object) -> None:
        raise InsufficientResources("No room.")

    with monkeypatch.context() as patch:
        patch.setattr(manager._usable().instances, "ensure", refuse)
        with pytest.raises(InsufficientResources):
            await runner.run(ask("two"))
    (run, *_) = await manager.list_runs("alice")
    assert run.result is not None
    assert run.result.error is not None
    assert run.result.error.code == "not_sent"
    assert (await manager.get_runner("alice")).status == "ready"
    assert (await runner.run(ask("three"))).success


async def test_a_caller_that_leaves_a_claimed_turn_at_once_leaves_a_ready_runner(
    manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """That the prompt is about to leave was written with the entry; given up before anything else, the runner is as it was."""
    runner = await manager.create_runner(spec)
    assert (await runner.run(ask())).success
    with anyio.CancelScope() as scope:

        class Leaving(StatusCallback):
            async def on_status_change(self, _task_id: str, _status: RunState, /) -> None:
                scope.cancel()
                await anyio.sleep_forever()

        await runner.run(ask("again"), Leaving())
    assert scope.cancelled_caught
    assert (await manager.get_runner("alice")).status is RunnerStatus.READY
