"""Records and instances brought together, whatever the events told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunRequest
from cnap_runner.errors import EngineUnavailable
from cnap_runner.model.instance import InstanceSpec
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.chronicle import Death
from cnap_runner.runner.recovery.resync import Resync
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.fake_opencode import FakeOpenCode, HangingOpenCode
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]


class MuteBackend(FakeBackend):
    """Its stream of events stands and tells nothing but that it connected."""

    def __init__(self, house: House) -> None:
        super().__init__(serve=house._serve)
        self.watches = 0

    @asynccontextmanager
    async def _watching(self, install_id: str) -> AsyncIterator[Any]:
        self.watches += 1
        async with super()._watching(install_id) as events:
            first = await anext(events)

            async def only_that() -> AsyncIterator[Any]:
                yield first
                await anyio.sleep_forever()

            yield only_that()


def resync_of(manager: RunnerManager) -> Resync:
    parts = manager._usable()
    return Resync(parts.install, parts.instances, parts._watch)


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not await condition():
            await anyio.sleep(0.01)


def stray(agent_id: str, install_id: str, like: InstanceSpec) -> InstanceSpec:
    return replace(like, agent_id=agent_id, instance_id=f"stray-{agent_id}-{install_id}", install_id=install_id)


async def test_f05_a_death_that_the_stream_did_not_tell_is_found_and_the_stream_renewed(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """A stream that is alive and mute is found out by the periodic comparison, and given up for a new one."""
    house.backend = backend = MuteBackend(house)
    async with house.manager(sweep_interval=0.05) as manager:
        runner = await manager.create_runner(spec)
        await runner.run(ask())
        watches = backend.watches
        await house.kill()

        async def is_noticed() -> bool:
            return (await manager.get_runner("alice")).record.status is RunnerStatus.FAILED

        async def is_renewed() -> bool:
            return backend.watches > watches

        await until(is_noticed)
        await until(is_renewed)
        assert (await runner.run(ask())).success


async def test_f04_a_list_that_fails_concludes_nothing(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is not an empty set: nobody is called dead, and the rounds go on."""
    await (await manager.create_runner(spec)).run(ask())

    async def away(_: str) -> Any:
        raise EngineUnavailable("No engine answers.")

    resync = resync_of(manager)
    with monkeypatch.context() as patch:
        patch.setattr(house.backend, "list_instances", away)
        with pytest.raises(EngineUnavailable):
            await resync.look()
    assert (await manager.get_runner("alice")).record.status is RunnerStatus.READY
    await resync.look()
    assert (await manager.get_runner("alice")).record.status is RunnerStatus.READY


async def test_f03_orphans_of_this_install_are_ended_and_nobody_elses(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """An instance of ours that no record names is removed; the present one, its like of another install, and their files stay."""
    await (await manager.create_runner(spec)).run(ask())
    parts = manager._usable()
    (present,) = house.backend.live("alice")
    like = house.backend._instances[present].spec
    for agent_id, install_id in (("alice", like.install_id), ("nobody", like.install_id), ("alice", "another00001")):
        await house.backend.create(stray(agent_id, install_id, like))
    await resync_of(manager).look()
    assert sorted(house.backend._instances) == sorted([present, "stray-alice-another00001"])
    told = await parts.install.store.list_decisions("alice")
    assert [decision.kind for decision in told].count(DecisionKind.ORPHAN_REMOVED) == 1


async def test_an_orphan_of_an_agent_that_somebody_is_at_is_left_for_later(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Whoever has the agent's lease may be about to name it, or to remove it."""
    await (await manager.create_runner(spec)).run(ask())
    (present,) = house.backend.live("alice")
    like = house.backend._instances[present].spec
    await house.backend.create(stray("alice", like.install_id, like))
    parts = manager._usable()
    async with house.manager() as other, other._usable().leased("alice", "start"):
        await resync_of(manager).look()
        assert len(house.backend._instances) == 2
    async with parts.leased("alice", "check"):
        pass
    await resync_of(manager).look()
    assert sorted(house.backend._instances) == [present]


async def test_f20_running_out_of_memory_is_explained_with_limit_and_peak(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """The record, the decision log and the turn's error say what it was allowed; the error is not worth a blind retry."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    (present,) = house.backend.live("alice")
    house.backend.kill(present, 137, is_oom=True)

    async def is_noticed() -> bool:
        return (await manager.get_runner("alice")).record.status is RunnerStatus.FAILED

    await until(is_noticed)
    assert "its limit was 2048 MiB" in str((await manager.get_runner("alice")).record.reason)
    (told,) = [d for d in await runner.explain() if d.kind is DecisionKind.OOM_KILLED]
    assert told.evidence["memory_limit_mb"] == 2048


def test_a_measured_peak_is_told() -> None:
    """Where the engine could still tell, the verdict has the peak too."""
    death = Death.of(137, is_oom_killed=True, peak=511 << 20).with_limit(512 << 20)
    assert death.reason.endswith("its limit was 512 MiB, and it wanted more, 511 MiB at its peak")


async def test_the_age_of_the_watch_is_known(house: House, spec: AgentSpec, ask: Ask) -> None:
    """Each event, connection and comparison confirms it."""
    async with house.manager() as manager:
        await (await manager.create_runner(spec)).run(ask())
        await resync_of(manager).look()
        age = manager._usable().install.metrics.watch_age()
    assert age is not None
    assert age < timedelta(seconds=5)


async def test_one_that_ends_while_it_starts_is_not_waited_for_though_the_stream_did_not_tell(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """Its server will never answer: the start is given up, and tried again, long before ``health_timeout``."""
    house.backend = backend = MuteBackend(house)
    house.make_server = HangingOpenCode
    async with house.manager(sweep_interval=0.05, health_timeout=300, retry_backoff=0.01) as manager:
        runner = await manager.create_runner(spec)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask())

            async def is_starting() -> bool:
                return bool(backend.live("alice")) and "alice" in house.servers

            await until(is_starting)
            house.make_server = FakeOpenCode
            (instance_id,) = backend.live("alice")
            backend.kill(instance_id)
            with anyio.fail_after(10):
                while house.starts != ["alice", "alice"]:
                    await anyio.sleep(0.01)
        assert runner.status is RunnerStatus.READY
