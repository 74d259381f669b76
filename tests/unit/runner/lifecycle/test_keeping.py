"""A keeper among troubles: ends that fail, settings that cannot be read, agents that are somebody else's."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import EngineUnavailable, StoreError
from cnap_runner.model.journal import DecisionKind
from cnap_runner.runner.lifecycle.last_sweep import FILE
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]


def later(manager: RunnerManager, **ahead: float) -> None:
    """Let all parts of a manager look at a clock that is so much ahead."""
    object.__setattr__(manager.parts.install, "now", lambda: datetime.now(UTC) + timedelta(**ahead))


async def status(manager: RunnerManager, agent_id: str = "alice") -> RunnerStatus:
    """How an agent stands, in the store."""
    return (await manager.parts.install.store.get_agent(agent_id)).runner.status


async def last(manager: RunnerManager, agent_id: str = "alice") -> tuple[DecisionKind, str]:
    """What was decided about an agent last, and why."""
    decision = (await manager.explain(agent_id))[-1]
    return decision.kind, decision.reason


def slow_stop(house: House, monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """Let instances take a while to stop; gives what is set when one begins to."""
    stop, began = house.backend.stop, anyio.Event()

    async def slow(*args: Any, **more: Any) -> None:
        began.set()
        await anyio.sleep(0.3)
        await stop(*args, **more)

    monkeypatch.setattr(house.backend, "stop", slow)
    return began


async def test_an_idle_stop_that_fails_is_done_later_and_stays_an_idle_stop(
    house: House, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent was healthy: it is stopped, not failed, and counted as what it was meant as."""

    async def fail(*_: Any, **__: Any) -> None:
        raise EngineUnavailable("hiccup")

    async with house.manager(idle_timeout=300) as manager:
        await (await manager.create_runner(spec)).run(ask())
        later(manager, seconds=301)
        with monkeypatch.context() as trouble:
            trouble.setattr(house.backend, "stop", fail)
            await manager.parts.keeper.keep_due()
            await manager.parts.keeper.sweep()
            assert await status(manager) is RunnerStatus.STOPPING
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.STOPPED
        assert await last(manager) == (DecisionKind.STOPPED_IDLE, "it had nothing to do for 5 min")
        assert (await manager.stats()).ended_by_idle == 1


async def test_an_end_that_has_begun_is_finished_by_a_manager_that_closes(
    house: House, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays half stopped, and nobody takes it for a failure."""
    async with house.manager(idle_timeout=300, on_shutdown="leave") as manager:
        await (await manager.create_runner(spec)).run(ask())
        later(manager, seconds=301)
        began = slow_stop(house, monkeypatch)
        manager.parts.tasks.start_soon(manager.parts.keeper.keep_due)
        await began.wait()
    async with house.manager() as manager:
        assert await status(manager) is RunnerStatus.STOPPED
        assert (await last(manager))[0] is DecisionKind.STOPPED_IDLE


async def test_room_that_is_being_made_is_made_although_the_waiters_time_is_over(
    house: House, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who yields is stopped whole, and its place is taken by whom it was stopped for."""
    async with house.manager(max_containers=1, place_timeout=0.2) as manager:
        await (await manager.create_runner(spec)).run(ask())
        bob = await manager.create_runner(AgentSpec(agent_id="bob", model="fake/demo"))
        with monkeypatch.context() as patch:
            slow_stop(house, patch)
            assert (await bob.run(ask())).success
        assert await status(manager) is RunnerStatus.STOPPED
        assert (await last(manager))[0] is DecisionKind.YIELDED


async def test_settings_that_cannot_be_read_are_one_agents_trouble(house: House, ask: Ask) -> None:
    """The error names whose they are and nothing that they hold; all others are kept as before."""
    async with house.manager(idle_timeout=300) as manager:
        for agent_id in ("alice", "bob"):
            await (await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))).run(ask())
        with sqlite3.connect(house.data_dir / "runner.db", isolation_level=None) as database:
            database.execute(
                "UPDATE agents SET spec = json_set(spec, '$.of_a_newer_version', 's3cr3t') WHERE agent_id = 'alice'"
            )
        database.close()
        later(manager, seconds=301)
        await manager.parts.keeper.keep_due()
        await manager.parts.keeper.sweep()
        assert await status(manager, "bob") is RunnerStatus.STOPPED
        with pytest.raises(StoreError, match=r"agent alice cannot be read .*of_a_newer_version: there is no") as raised:
            _ = (await manager.get_runner("alice")).spec
        assert "s3cr3t" not in str(raised.value)
        assert (await (await manager.get_runner("bob")).run(ask())).success
        await manager.stop_runner("alice")
        await manager.delete_runner("alice", delete_workspace=True)


async def test_a_held_agent_that_cannot_be_started_here_is_not_replaced(
    house: House, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old instance is better than none: another process may have what this one lacks."""
    monkeypatch.setenv("KEEPING_KEY", "s3cr3tvalue")
    mcp = {"m": {"type": "remote", "url": "http://127.0.0.1:9/x", "headers": {"A": "${K}"}}}
    spec = AgentSpec(agent_id="alice", model="fake/demo", secrets={"K": "env:KEEPING_KEY"}, mcp=mcp)
    async with house.manager(max_age=3600) as app:
        await (await app.create_runner(spec)).run(ask())
        await app.hold("alice", "bob", datetime.now(UTC) + timedelta(days=2))
        monkeypatch.delenv("KEEPING_KEY")
        async with house.manager(max_age=3600) as keeper:
            later(keeper, hours=2)
            await keeper.parts.keeper.sweep()
            assert await status(keeper) is RunnerStatus.READY
            assert await keeper.parts.install.store.next_due() is not None
        assert house.starts == ["alice"]
        monkeypatch.setenv("KEEPING_KEY", "s3cr3tvalue")
        later(app, hours=2)
        await app.parts.keeper.sweep()
        with anyio.fail_after(5):
            while house.starts != ["alice", "alice"] or await status(app) is not RunnerStatus.READY:
                await anyio.sleep(0.02)


async def test_a_manager_that_closes_leaves_what_others_hold(house: House, spec: AgentSpec, ask: Ask) -> None:
    """Without the hold it is stopped."""
    async with house.manager() as two:
        for is_held in (True, False):
            async with house.manager() as one:
                await (await one.create_runner(spec)).run(ask())
                if is_held:
                    await two.hold("alice", "bob", datetime.now(UTC) + timedelta(hours=1))
                else:
                    await two.release("alice", "bob")
            assert await status(two) is (RunnerStatus.READY if is_held else RunnerStatus.STOPPED)


async def test_a_command_inside_a_paused_instance_leaves_a_changed_spec_for_the_next_turn(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """The instance is woken as it is: what the command wants to look into must not be ended for it."""
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        await runner.run(ask())
        await manager.pause_runner("alice")
        await manager.create_runner(spec.model_copy(update={"image": "other:latest"}))
        assert (await runner.exec(["true"])).exit_code == 0
        assert await status(manager) is RunnerStatus.READY
        assert (await last(manager))[0] is DecisionKind.RESUMED
        assert house.starts == ["alice"]


async def test_the_installs_keeper_stays_when_the_store_fails(
    house: House, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk passes; nobody would start another keeper."""
    asked = anyio.Event()

    async def full() -> None:
        asked.set()
        raise StoreError("The database failed: disk I/O error")

    async with house.manager() as manager:
        await (await manager.create_runner(spec)).run(ask())
        monkeypatch.setattr(manager.parts.install.store, "count_statuses", full)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.keep)
            await asked.wait()
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()


async def test_one_sweep_per_interval_is_enough_for_all_managers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes later skips it; when the last one is too long ago, whoever comes first does it."""
    swept: list[str] = []
    async with house.manager() as one, house.manager() as two:
        for name, manager in (("one", one), ("two", two)):

            async def sweep(name: str = name) -> None:
                swept.append(name)

            monkeypatch.setattr(manager.parts.keeper, "sweep", sweep)
        for manager in (one, two, one):
            await manager.parts.keeper._sweep_in_turn()
        assert swept == ["one"]
        for ago in (timedelta(minutes=1), -timedelta(hours=1)):
            then = (datetime.now(UTC) - ago).timestamp()
            os.utime(house.data_dir / FILE, (then, then))
            await two.parts.keeper._sweep_in_turn()
        assert swept == ["one", "two", "two"]
