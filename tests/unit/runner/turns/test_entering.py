"""Runs that are given up around their entry into the ledger: nothing of them stays, and nothing that others wrote is undone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest, RunState, StatusCallback
from cnap_runner.errors import RunTimedOut
from cnap_runner.model.instance import InstanceRef, Limits
from cnap_runner.model.journal import DecisionKind
from cnap_runner.runner.lifecycle.wear import Wear
from cnap_runner.testing.fake_opencode import DeafOpenCode, FakeOpenCode, Hold
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]


@asynccontextmanager
async def another_writes(house: House) -> AsyncIterator[None]:
    """Another process has the database for this block, and for a moment more."""
    other = sqlite3.connect(house.data_dir / "runner.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
    finally:
        other.execute("ROLLBACK")
        other.close()


async def end_of_latest(manager: RunnerManager) -> tuple[RunState, str | None]:
    (run, *_) = await manager.list_runs("alice")
    return run.state, None if run.result is None or run.result.error is None else run.result.error.code


@pytest.mark.parametrize("is_scope", [True, False])
async def test_a_caller_that_leaves_while_its_entry_is_written_leaves_nothing(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, *, is_scope: bool
) -> None:
    """However it is cancelled: the entry ends as not sent, and the next run uses the same container at once."""
    runner = await manager.create_runner(spec)
    await runner.run(ask("one"))
    scope = anyio.CancelScope()

    async def leave() -> None:
        with scope:
            await runner.run(ask("two"))

    async with another_writes(house):
        task = asyncio.create_task(leave())
        await anyio.sleep(0.1)
        scope.cancel() if is_scope else task.cancel()
        await anyio.sleep(0)
    await asyncio.wait({task})
    assert task.cancelled() is not is_scope
    assert await end_of_latest(manager) == (RunState.ENDED, "not_sent")
    assert (await manager.get_runner("alice")).status is RunnerStatus.READY
    assert (await runner.run(ask("three"))).success
    assert (house.starts, house.prompts) == (["alice"], ["one", "three"])


async def test_what_this_process_knows_was_not_sent_needs_no_proof(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that says that its prompt is about to leave, and that could not be ended in time: no container is ended for it."""
    monkeypatch.setattr("cnap_runner.runner.turns.execution.WIND_UP", timedelta(seconds=0.05))
    runner = await manager.create_runner(spec)
    await runner.run(ask("one"))
    scope = anyio.CancelScope()

    class Leaving(StatusCallback):
        async def on_status_change(self, _task_id: str, _status: RunState, /) -> None:
            scope.cancel()

    store = manager._usable().install.store
    finish_run = store.finish_run

    async def slow(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(store, "finish_run", finish_run)
        await anyio.sleep_forever()

    monkeypatch.setattr(store, "finish_run", slow)
    with scope:
        await runner.run(ask("two"), Leaving())
    assert await end_of_latest(manager) == (RunState.SENDING, None)
    assert (await runner.run(ask("three"))).success
    assert (house.starts, house.prompts) == (["alice"], ["one", "three"])


async def test_a_key_used_again_while_its_first_end_is_told(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """The first call, whose prompt was never taken, and the second one with its id both end, and neither takes the other's place."""

    class Slow(StatusCallback):
        def __init__(self) -> None:
            self.ending, self.go_on = anyio.Event(), anyio.Event()

        async def on_status_change(self, _task_id: str, status: RunState, /) -> None:
            if status is RunState.ENDED:
                self.ending.set()
                await self.go_on.wait()

    house.make_server = DeafOpenCode
    await manager.create_runner(spec)
    runner, slow = await manager.start_runner("alice"), Slow()
    request = ask("x", idempotency_key="k", on_interrupt="resume")
    results: list[Any] = []

    async def run(callback: StatusCallback | None = None) -> None:
        results.append(await runner.run(request, callback))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, slow)
        with anyio.fail_after(8):
            while not house.prompts:
                await anyio.sleep(0.01)
            house.make_server = FakeOpenCode
            await house.kill()
            await slow.ending.wait()
            second = asyncio.create_task(run())
            while (await manager.list_runs("alice"))[0].state is RunState.ENDED:
                await anyio.sleep(0.005)
        slow.go_on.set()
        await second
    assert {result.run_id for result in results} == {results[0].run_id}
    assert [result.success for result in results if result.success] == [True]


async def test_an_instance_that_was_ended_while_a_run_waited_is_not_called_ready(house: House, ask: Ask) -> None:
    """A run that gives up while another agent has its place leaves the record as the end of its instance left it."""
    async with house.manager(max_containers=1, place_timeout=3) as manager:
        alice, bob = [
            await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))
            for agent_id in ("alice", "bob")
        ]
        await alice.run(ask("one"))
        await manager.hold("alice", "me", datetime.now(UTC) + timedelta(hours=1))
        async with anyio.create_task_group() as tasks:
            house._turns.append([Hold()])
            tasks.start_soon(bob.run, ask("x"))
            await anyio.sleep(0.3)
            live = manager._usable().instances.last_used("alice")
            assert live is not None
            live.worn = Wear(DecisionKind.RECYCLED_MEMORY, "it is large", {})
            with pytest.raises(RunTimedOut):
                await alice.run(ask("two", timeout=timedelta(seconds=0.7)))
            assert (await manager.get_runner("alice")).status is RunnerStatus.STOPPED
            assert house.backend.live("alice") == []
            tasks.cancel_scope.cancel()


async def test_limits_that_were_given_half_are_given_again(
    house: House, manager: RunnerManager, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that leaves while its instance gets other limits does not deny that they are not known any more."""

    def spec(memory_mb: int) -> AgentSpec:
        return AgentSpec(agent_id="alice", model="fake/demo", resources={"memory_mb": memory_mb})

    runner = await manager.create_runner(spec(512))
    await runner.run(ask("one"))
    store, given, update = manager._usable().install.store, [], house.backend.update_limits

    async def noted(ref: InstanceRef, limits: Limits) -> None:
        given.append(limits.memory_bytes >> 20)
        await update(ref, limits)

    async def interrupted(ref: InstanceRef, limits: Limits) -> None:
        await noted(ref, limits)
        await anyio.sleep_forever()

    monkeypatch.setattr(house.backend, "update_limits", interrupted)
    await store.put_agent(spec(1024), at=datetime.now(UTC))
    with pytest.raises(RunTimedOut):
        await runner.run(ask("two", timeout=timedelta(seconds=0.3)))
    monkeypatch.setattr(house.backend, "update_limits", noted)
    await store.put_agent(spec(512), at=datetime.now(UTC))
    assert (await runner.run(ask("three"))).success
    assert given == [1024, 512]
