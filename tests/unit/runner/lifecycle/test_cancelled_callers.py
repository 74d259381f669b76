"""Callers that are cancelled while the store does what they asked for: a call that is cancelled may have happened, and nothing of it stays."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.runner.leasing import leased, leased_if_free
from cnap_runner.runner.lifecycle.holding import held_while

Ask = Callable[..., RunRequest]

OTHERS_WRITE = 0.1
"""Seconds for which another process has the write lock."""


def during(house: Any, manager: RunnerManager, name: str, do: Callable[[], object], *, of: str = "alice") -> None:
    """Let this happen while the store's method works on an agent for the first time. What was asked for is done all the same."""
    store: Any = manager.parts.install.store
    real = getattr(store, name)

    async def delayed(first: Any, *arguments: Any, **more: Any) -> Any:
        if of != getattr(first, "agent_id", first):
            return await real(first, *arguments, **more)
        setattr(store, name, real)
        other = sqlite3.connect(house.data_dir / "runner.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_go, other)
            return await real(first, *arguments, **more)

    async def let_go(other: sqlite3.Connection) -> None:
        await anyio.sleep(OTHERS_WRITE / 2)
        do()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(OTHERS_WRITE / 2)
        other.execute("ROLLBACK")
        other.close()

    setattr(store, name, delayed)


def cancel_in(house: Any, manager: RunnerManager, name: str) -> anyio.CancelScope:
    """Give a scope that is cancelled while the store's method works on alice for the first time."""
    scope = anyio.CancelScope()
    during(house, manager, name, scope.cancel)
    return scope


async def test_no_lease_stays_of_a_change_that_is_cancelled(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Whoever is cancelled as the lease is given to him leaves it to the next."""
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        with cancel_in(house, manager, "acquire_lease") as scope:
            await manager.start_runner("alice")
        assert scope.cancelled_caught
        assert await manager.parts.install.store.get_lease("alice") is None
        with anyio.fail_after(5):
            await runner.run(ask())


async def test_no_lease_stays_of_an_agent_whose_place_was_wanted(house: Any, ask: Ask) -> None:
    """Whoever is cancelled as he takes another agent's place leaves that one as it is."""
    async with house.manager(max_containers=1) as manager:
        alice = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo"))
        await alice.run(ask())
        bob = await manager.create_runner(AgentSpec(agent_id="bob", model="fake/demo"))
        with cancel_in(house, manager, "acquire_lease") as scope:
            await bob.run(ask())
        assert scope.cancelled_caught
        assert await manager.parts.install.store.get_lease("alice") is None
        with anyio.fail_after(5):
            await alice.run(ask())


async def test_who_gives_up_waiting_for_a_lease_leaves_it_to_its_holder(house: Any, spec: AgentSpec) -> None:
    """Neither a cancelled try nor the end of one in vain gives back what another coroutine of the same manager has."""
    async with house.manager() as manager:
        await manager.create_runner(spec)
        install = manager.parts.install
        async with leased(install, "alice", "change"):
            held = await install.store.get_lease("alice")
            async with leased_if_free(install, "alice", "change") as is_ours:
                assert not is_ours
            with cancel_in(house, manager, "acquire_lease") as scope:
                async with leased(install, "alice", "change"):
                    pytest.fail("somebody else has it")
            assert scope.cancelled_caught
            assert await install.store.get_lease("alice") == held
        assert await install.store.get_lease("alice") is None


async def test_no_hold_stays_of_work_that_is_cancelled(house: Any, spec: AgentSpec) -> None:
    """Whoever is cancelled as his hold is written leaves none."""
    async with house.manager() as manager:
        await manager.create_runner(spec)
        with cancel_in(house, manager, "put_hold") as scope:
            async with held_while(manager.parts.install, "alice", "exec"):
                pytest.fail("it was cancelled before")
        assert scope.cancelled_caught
        assert not await manager.release("alice", "somebody")  # a later write: what was cancelled is done by now
        assert await manager.list_holds() == []


@pytest.mark.parametrize("how", ["its scope", "its task"])
async def test_no_place_stays_of_a_start_that_is_cancelled(house: Any, spec: AgentSpec, ask: Ask, how: str) -> None:
    """Whoever is cancelled as a place is given to him gives it back, and no failure is written down."""
    async with house.manager(max_containers=1) as manager:
        runner = await manager.create_runner(spec)
        if how == "its scope":
            with cancel_in(house, manager, "reserve_start"):
                await runner.run(ask())
        else:
            run = asyncio.ensure_future(runner.run(ask()))
            during(house, manager, "reserve_start", run.cancel)
            with pytest.raises(asyncio.CancelledError):
                await run
        assert (await manager.get_runner("alice")).status is RunnerStatus.STOPPED
        assert await manager.parts.install.store.get_lease("alice") is None
        with anyio.fail_after(5):
            await (await manager.create_runner(AgentSpec(agent_id="bob", model="fake/demo"))).run(ask())


async def test_a_place_that_is_got_in_the_last_moment_is_used(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Where the patience ends as a place is given, the start goes on."""
    async with house.manager(max_containers=1, place_timeout=OTHERS_WRITE / 2) as manager:
        runner = await manager.create_runner(spec)
        during(house, manager, "reserve_start", lambda: None)
        await runner.run(ask())
        assert house.starts == ["alice"]
