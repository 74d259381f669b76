"""What becomes of agents that have nothing to do, on fakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Life, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import ConflictError, InvalidInput, RunnerNotFound
from cnap_runner.model.journal import DecisionKind
from cnap_runner.testing.fake_opencode.script import Hold, Say

Ask = Callable[..., RunRequest]
NEVER = timedelta(days=99)


class Clock:
    """A manager's time, which a test moves on."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def set_clock(manager: RunnerManager, clock: Clock) -> None:
    """Let all parts of a manager look at this clock."""
    object.__setattr__(manager.parts.install, "now", clock)


async def kinds(manager: RunnerManager, agent_id: str = "alice") -> list[DecisionKind]:
    """What was decided about an agent, oldest first."""
    return [decision.kind for decision in await manager.explain(agent_id)]


async def status(manager: RunnerManager, agent_id: str = "alice") -> RunnerStatus:
    """How an agent stands, in the store."""
    return (await manager.parts.install.store.get_agent(agent_id)).runner.status


async def test_an_idle_agent_is_frozen_then_stopped_and_wakes_on_demand(
    house: Any, spec: AgentSpec, ask: Ask, clock: Clock
) -> None:
    """By due times alone; a run thaws a frozen instance and starts a stopped one, and the session goes on in both."""
    async with house.manager(pause_after=60, idle_timeout=300) as manager:
        set_clock(manager, clock)
        runner = await manager.create_runner(spec)
        await runner.run(ask("one"))
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.READY
        clock.ahead = timedelta(seconds=61)
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.PAUSED
        assert (await runner.run(ask("two"))).output == "TWO"
        assert await status(manager) is RunnerStatus.READY
        assert house.starts == ["alice"]
        clock.ahead += timedelta(seconds=61)
        await manager.parts.keeper.keep_due()
        clock.ahead += timedelta(seconds=240)
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.STOPPED
        assert (await runner.run(ask("three"))).output == "THREE"
        assert len(house.servers["alice"].sessions) == 1
        assert (await kinds(manager))[1:] == [
            DecisionKind.STARTED,
            *(DecisionKind.PAUSED, DecisionKind.RESUMED, DecisionKind.PAUSED),
            *(DecisionKind.STOPPED_IDLE, DecisionKind.STARTED),
        ]
        stats = await manager.stats()
        assert (stats.total, stats.idle, stats.ended_by_idle) == (1, 1, 1)


async def test_the_loop_does_it_by_itself(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Without anybody asking, an idle agent is frozen and stopped, whichever of two managers does it, and once."""
    life = Life(pause_after=timedelta(seconds=0.1), idle_timeout=timedelta(seconds=0.4))
    async with house.manager(sweep_interval=0.05) as one, house.manager(sweep_interval=0.05):
        runner = await one.create_runner(spec.model_copy(update={"life": life}))
        await runner.run(ask())
        with anyio.fail_after(10):
            while await status(one) is not RunnerStatus.STOPPED:
                await anyio.sleep(0.02)
            while DecisionKind.STOPPED_IDLE not in await kinds(one):
                await anyio.sleep(0.02)
        assert (await kinds(one))[1:] == [DecisionKind.STARTED, DecisionKind.PAUSED, DecisionKind.STOPPED_IDLE]


async def test_f07_an_agent_at_work_is_never_idle(house: Any, spec: AgentSpec, ask: Ask, clock: Clock) -> None:
    """However long its turn takes, and whatever its due time says."""
    house.script([Say("busy"), Hold()])
    async with house.manager(pause_after=60, idle_timeout=300, max_run_time=NEVER) as manager:
        set_clock(manager, clock)
        runner = await manager.create_runner(spec)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask("work"))
            with anyio.fail_after(10):
                while await status(manager) is not RunnerStatus.RUNNING:
                    await anyio.sleep(0.01)
            clock.ahead = timedelta(hours=2)
            await manager.parts.keeper.sweep()
            assert await status(manager) is RunnerStatus.RUNNING
            await runner.abort()


async def test_a_hold_keeps_an_agent_and_its_end_lets_it_go(
    house: Any, spec: AgentSpec, ask: Ask, clock: Clock
) -> None:
    """Held it is neither frozen nor stopped; a release, or the end that was stored, makes it due at once, in another manager too."""
    async with house.manager(pause_after=60, idle_timeout=300) as manager:
        set_clock(manager, clock)
        await (await manager.create_runner(spec)).run(ask())
        await manager.hold("alice", "bob", clock() + timedelta(hours=1))
        held = await manager.hold("alice", "bob", clock() + timedelta(hours=2))
        await manager.hold("alice", "eve", clock() + timedelta(hours=3))
        clock.ahead = timedelta(minutes=90)
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.READY
        assert held in await manager.list_holds()
        assert await manager.release("alice", "eve")
        assert not await manager.release("alice", "eve")
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.READY
        clock.ahead = timedelta(hours=2, seconds=1)
        async with house.manager(pause_after=60, idle_timeout=300) as other:
            set_clock(other, clock)
            await other.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.STOPPED
        await manager.parts.keeper.sweep()
        assert (await kinds(manager))[-1] is DecisionKind.RELEASED


async def test_what_cannot_be_held_is_refused(manager: RunnerManager, spec: AgentSpec) -> None:
    """A moment without a zone, one that is past, an owner without a name, an agent that is not known."""
    await manager.create_runner(spec)
    later = datetime.now(UTC) + timedelta(hours=1)
    for owner, until in (("bob", later.replace(tzinfo=None)), ("bob", later - timedelta(days=1)), ("", later)):
        with pytest.raises(InvalidInput):
            await manager.hold("alice", owner, until)
    with pytest.raises(RunnerNotFound):
        await manager.hold("nobody", "bob", later)
    with pytest.raises(RunnerNotFound):
        await manager.release("nobody", "bob")


async def test_f08_the_clock_starts_when_the_instance_is_ready(
    house: Any, spec: AgentSpec, ask: Ask, clock: Clock
) -> None:
    """A new instance inherits no idle time from before, and one that was woken none from its sleep."""
    async with house.manager(pause_after=60, idle_timeout=300) as manager:
        set_clock(manager, clock)
        await (await manager.create_runner(spec)).run(ask())
        clock.ahead = timedelta(seconds=301)
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.STOPPED
        clock.ahead += timedelta(hours=1)
        await manager.start_runner("alice")
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.READY
        clock.ahead += timedelta(seconds=61)
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.PAUSED
        clock.ahead += timedelta(seconds=200)
        await manager.start_runner("alice")
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.READY


async def test_f09_looking_is_no_activity(house: Any, spec: AgentSpec, ask: Ask, clock: Clock) -> None:
    """Whoever lists, reads logs or asks for MCP servers keeps nobody awake."""
    async with house.manager(pause_after=60, idle_timeout=300) as manager:
        set_clock(manager, clock)
        runner = await manager.create_runner(spec)
        await runner.run(ask())
        for seconds in range(30, 331, 60):
            clock.ahead = timedelta(seconds=seconds)
            await manager.list_runners()
            await runner.mcp()
            await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.STOPPED


async def test_an_agent_is_frozen_on_request_and_a_command_inside_thaws_it(
    house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Twice is once; without an instance there is nothing to freeze; one frozen serves whoever goes inside."""
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        with pytest.raises(ConflictError, match="nothing to freeze"):
            await manager.pause_runner("alice")
        await runner.run(ask())
        await manager.pause_runner("alice")
        await manager.pause_runner("alice")
        assert await status(manager) is RunnerStatus.PAUSED
        assert (await runner.exec(["true"])).exit_code == 0
        assert await status(manager) is RunnerStatus.READY
        assert await manager.list_holds() == []
        assert (await kinds(manager)).count(DecisionKind.PAUSED) == 1


async def test_a_turn_cannot_be_frozen_on_request(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """It is refused, and the turn goes on."""
    house.script([Say("busy"), Hold()])
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask("work"))
            with anyio.fail_after(10):
                while await status(manager) is not RunnerStatus.RUNNING:
                    await anyio.sleep(0.01)
            with pytest.raises(ConflictError, match="in a turn"):
                await manager.pause_runner("alice")
            await runner.abort()


async def test_another_manager_wakes_what_this_one_froze(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """The record says that it is frozen, so nobody talks to a server that cannot answer."""
    async with house.manager() as one, house.manager() as two:
        runner = await one.create_runner(spec)
        await runner.run(ask())
        other = await two.get_runner("alice")
        await other.run(ask())
        await one.pause_runner("alice")
        assert (await other.run(ask("awake"))).output == "AWAKE"
        assert house.starts == ["alice"]


async def test_a_freeze_that_fails_changes_nothing(house: Any, spec: AgentSpec, ask: Ask, clock: Clock) -> None:
    """The engine's error is logged, the agent is as it was, and is tried again later."""
    async with house.manager(pause_after=60) as manager:
        set_clock(manager, clock)
        runner = await manager.create_runner(spec)
        await runner.run(ask())
        pause, house.backend.pause = house.backend.pause, fail
        clock.ahead = timedelta(seconds=61)
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.READY
        assert await manager.parts.install.store.next_due() > clock()
        house.backend.pause = pause
        clock.ahead += timedelta(seconds=20)
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.PAUSED


async def fail(*_: object) -> None:
    """Be an engine that is away."""
    from cnap_runner.errors import EngineUnavailable

    raise EngineUnavailable("nobody answers")


async def test_old_instances_are_replaced_between_turns(house: Any, spec: AgentSpec, ask: Ask, clock: Clock) -> None:
    """An idle one ends, a held one gets a successor at once, and one that is never idle at the beginning of its next turn."""
    quiet = {"pause_after": NEVER, "idle_timeout": NEVER, "max_age": 3600}
    async with house.manager(**quiet) as manager:
        set_clock(manager, clock)
        runner = await manager.create_runner(spec)
        await runner.run(ask())
        clock.ahead = timedelta(seconds=3601)
        assert (await runner.run(ask("young"))).output == "YOUNG"
        assert len(house.starts) == 2
        clock.ahead += timedelta(seconds=3601)
        await manager.parts.keeper.keep_due()
        assert await status(manager) is RunnerStatus.STOPPED
        await manager.start_runner("alice")
        await manager.hold("alice", "bob", clock() + timedelta(days=1))
        clock.ahead += timedelta(seconds=3601)
        await manager.parts.keeper.sweep()
        with anyio.fail_after(5):
            while await status(manager) is not RunnerStatus.READY:  # beside the sweep
                await anyio.sleep(0.01)
        assert len(house.starts) == 4
        assert (await manager.stats()).ended_by_age == 3


async def test_large_instances_are_replaced_after_their_turn(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Not before they were used, and one in a turn when it begins its next one."""
    async with house.manager(pause_after=NEVER, idle_timeout=NEVER) as manager:
        runner = await manager.create_runner(spec)
        await manager.start_runner("alice")
        measure = house.backend.usage

        async def large(ref: Any) -> Any:
            usage = await measure(ref)
            return replace(usage, memory_bytes=95 << 20, memory_limit_bytes=100 << 20)

        house.backend.usage = large
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.READY
        await runner.run(ask())
        await manager.parts.keeper.sweep()
        assert await status(manager) is RunnerStatus.STOPPED
        await manager.start_runner("alice")
        house.script([Say("busy"), Hold()])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask("work"))
            with anyio.fail_after(10):
                while await status(manager) is not RunnerStatus.RUNNING:
                    await anyio.sleep(0.01)
            await manager.parts.keeper._measure_working()
            await manager.parts.keeper.sweep()
            assert await status(manager) is RunnerStatus.RUNNING
            await runner.abort()
        starts = len(house.starts)
        await runner.run(ask())
        assert len(house.starts) == starts + 1
        assert (await manager.stats()).ended_by_memory == 2
