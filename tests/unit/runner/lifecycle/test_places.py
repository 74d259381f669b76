"""Places for instances, on fakes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import MaxContainersReached
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.lifecycle import places
from cnap_runner.runner.lifecycle.places import StartGate
from cnap_runner.store.transactions import places as line

Ask = Callable[..., RunRequest]


async def run(manager: RunnerManager, agent_id: str, request: RunRequest, ended: list[str] | None = None) -> None:
    """Do one run of an agent that is made for it."""
    runner = await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))
    await runner.run(request)
    if ended is not None:
        ended.append(agent_id)


async def test_the_longest_idle_yields_its_place(house: Any, ask: Ask) -> None:
    """Its diary says to whom; who is held stays; when nobody can yield, whoever waits is refused in the end."""
    async with house.manager(max_containers=2, place_timeout=0.5) as manager:
        for agent_id in ("alice", "bob"):
            await run(manager, agent_id, ask())
        await manager.pause_runner("bob")
        await run(manager, "carol", ask())
        assert [(runner.agent_id, runner.status) for runner in await manager.list_runners()] == [
            ("alice", RunnerStatus.STOPPED),
            ("bob", RunnerStatus.PAUSED),
            ("carol", RunnerStatus.READY),
        ]
        last = (await manager.explain("alice"))[-1]
        assert (last.kind, "carol" in last.reason) == (DecisionKind.YIELDED, True)
        assert (await manager.stats()).yielded == 1
        for agent_id in ("bob", "carol"):
            await manager.hold(agent_id, "me", datetime.now(UTC) + timedelta(hours=1))
        with pytest.raises(MaxContainersReached):
            await run(manager, "alice", ask())
        assert (await manager.explain("alice"))[-1].kind is DecisionKind.REFUSED


async def test_nobody_yields_where_that_gains_nothing(house: Any, ask: Ask) -> None:
    """Under a limit that was lowered: as long as those at work alone are too many. Who waits is known meanwhile."""
    later = datetime.now(UTC) + timedelta(hours=1)
    async with house.manager(max_containers=3) as before, house.manager(max_containers=1) as manager:
        for agent_id in ("alice", "bob"):
            await run(before, agent_id, ask())
        await before.hold("alice", "me", later)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, manager, "carol", ask())
            with anyio.fail_after(10):
                while await manager.waiting_for_place() != ["carol"]:
                    await anyio.sleep(0.01)
            await anyio.sleep(0.3)
            assert (await before.get_runner("bob")).status is RunnerStatus.READY
            await before.release("alice", "me")
        assert await manager.waiting_for_place() == []
        assert (await manager.stats()).yielded == 2


async def test_places_are_waited_for_in_line_over_managers(house: Any, ask: Ask) -> None:
    """Three agents of two managers share one place: they get it in the order in which they asked, and all in the end."""
    ended: list[str] = []
    async with house.manager(max_containers=1) as one, house.manager(max_containers=1) as two:
        store = one.parts.install.store
        await run(one, "alice", ask())
        await one.hold("alice", "me", datetime.now(UTC) + timedelta(hours=1))
        async with anyio.create_task_group() as tasks:
            for manager, agent_id in ((two, "bob"), (one, "carol"), (two, "dave")):
                tasks.start_soon(run, manager, agent_id, ask(), ended)
                with anyio.fail_after(10):
                    while await store.get_lease(agent_id) is None:
                        await anyio.sleep(0.01)
                await anyio.sleep(0.05)
            assert house.starts == ["alice"]
            await one.release("alice", "me")
    assert house.starts == ["alice", "bob", "carol", "dave"]
    assert sorted(ended) == ["bob", "carol", "dave"]


async def test_who_is_refused_hears_that_others_wait_before_it(
    house: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes long to make room for itself keeps its place in the line."""
    monkeypatch.setattr(places, "SAID_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(line, "WAITS_FOR", timedelta(seconds=0.4))
    async with house.manager(max_containers=1) as one, house.manager(max_containers=1, place_timeout=1) as two:
        await run(one, "alice", ask())
        await one.hold("alice", "me", datetime.now(UTC) + timedelta(hours=1))
        monkeypatch.setattr(one.parts.instances.steps, "make_room", lambda **_: anyio.sleep_forever())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, one, "bob", ask())
            with anyio.fail_after(10):
                while await one.waiting_for_place() != ["bob"]:
                    await anyio.sleep(0.01)
            with pytest.raises(MaxContainersReached, match="others wait before it"):
                await run(two, "carol", ask())
            tasks.cancel_scope.cancel()
        assert "others wait before it" in (await one.explain("carol"))[-1].reason


async def test_of_many_who_wait_in_line_only_the_first_asks_often(
    house: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that is free goes from one to the next at once all the same."""
    monkeypatch.setattr(places, "LOOK_BEHIND_SECONDS", 60)
    async with house.manager(max_containers=1) as manager:
        await run(manager, "alice", ask())
        await manager.hold("alice", "me", datetime.now(UTC) + timedelta(hours=1))
        store, asked, ended = manager.parts.install.store, list[str](), list[str]()
        reserve = store.reserve_start

        async def counted(record: RunnerRecord, **more: Any) -> bool:
            asked.append(record.agent_id)
            is_reserved: bool = await reserve(record, **more)
            return is_reserved

        monkeypatch.setattr(store, "reserve_start", counted)
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(run, manager, f"agent-{number}", ask(), ended)
            with anyio.fail_after(10):
                while len(set(asked)) < 8 or len(asked) < 11:
                    await anyio.sleep(0.01)
            assert sorted(asked.count(name) for name in set(asked))[:-1] == [1] * 7
            await manager.release("alice", "me")
            with anyio.fail_after(10):
                while len(ended) < 8:
                    await anyio.sleep(0.01)


async def test_f19_starts_are_bounded_and_spread(house: Any, ask: Ask) -> None:
    """However many runs come at once, no more than so many instances boot at the same time, in one manager."""
    async with house.manager(starts_at_once=2, max_containers=6) as manager:
        booting, most = 0, 0
        boot = manager.parts.instances._booter.boot

        async def counted(*arguments: Any) -> Any:
            nonlocal booting, most
            booting += 1
            most = max(most, booting)
            try:
                await anyio.sleep(0.3)
                return await boot(*arguments)
            finally:
                booting -= 1

        manager.parts.instances._booter.boot = counted
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(run, manager, f"agent-{number}", ask())
    assert most == 2
    assert len(house.starts) == 5


async def test_the_gate_spreads_what_comes_together() -> None:
    """Those that come together are spread, in the order in which they came."""
    gate, passed = StartGate(3), []

    async def pass_gate(number: int) -> None:
        async with gate.passed():
            passed.append((number, anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(pass_gate, number)
    assert [number for number, _ in passed] == [0, 1, 2]
    assert passed[2][1] - passed[0][1] >= 0.19
