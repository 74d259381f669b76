"""What is written into the decision log by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import ImageNotFound, InvalidInput, RunnerNotFound
from cnap_runner.model.journal import DecisionKind as K
from cnap_runner.store.schema import agents
from cnap_runner.store.sql import SqlStore
from cnap_runner.testing import FakeBackend

Ask = Callable[..., RunRequest]


async def kinds(manager: RunnerManager, agent_id: str = "alice") -> list[K]:
    return [decision.kind for decision in await manager.explain(agent_id)]


async def test_a_life_is_told_from_beginning_to_end(manager: RunnerManager, spec: AgentSpec, ask: Ask) -> None:
    """Made, started for a run, changed, stopped, started, deleted; and it can be read afterwards."""
    runner = await manager.create_runner(spec)
    await manager.create_runner(spec)
    result = await runner.run(ask())
    await runner.run(ask())
    await manager.create_runner(spec.model_copy(update={"system_prompt": "Be brief."}))
    await manager.stop_runner("alice")
    await manager.stop_runner("alice")
    await manager.start_runner("alice")
    told = await runner.explain()
    assert [decision.kind for decision in told] == [K.CREATED, K.STARTED, K.CHANGED, K.STOPPED, K.STARTED]
    assert (told[1].reason, told[1].evidence["run_id"], told[1].evidence["generation"]) == (
        "a run needed it",
        result.run_id,
        1,
    )
    assert told[2].evidence == {"fields": "system_prompt"}
    assert told[4].reason == "it was asked to start"
    await manager.delete_runner("alice")
    assert (await kinds(manager))[-2:] == [K.STOPPED, K.DELETED]
    await manager.create_runner(spec)
    (newest,) = await manager.explain("alice", limit=1)
    assert (newest.kind, newest.reason) == (
        K.CREATED,
        "it was made again, with the files and sessions it had left",
    )


async def test_a_death_is_told_once_with_how(house: Any, manager: RunnerManager, spec: AgentSpec, ask: Ask) -> None:
    """However many managers saw it."""
    async with house.manager(is_observer=True):
        runner = await manager.create_runner(spec)
        await runner.run(ask())
        instance_id = runner.record.instance_id
        await house.servers["alice"].kill()
        house.backend.kill(instance_id, is_oom=True)
        with anyio.fail_after(5):
            while K.OOM_KILLED not in await kinds(manager):
                await anyio.sleep(0.01)
        await runner.run(ask())
        told = await runner.explain()
    assert [decision.kind for decision in told] == [K.CREATED, K.STARTED, K.OOM_KILLED, K.STARTED]
    assert told[2].evidence["instance_id"] == instance_id
    assert told[2].evidence["exit_code"] == 137
    assert told[2].evidence["memory_limit_mb"] == runner.record.limits.memory_bytes >> 20  # type: ignore[union-attr]


async def test_a_failed_start_is_told_with_its_error(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """By its code, so that programs can count it."""
    house.backend = FakeBackend(images=())
    async with house.manager(max_retries=0) as manager:
        runner = await manager.create_runner(spec)
        with pytest.raises(ImageNotFound):
            await runner.run(ask())
        failures = [d for d in await runner.explain() if d.kind is K.START_FAILED]
        assert failures[0].evidence["error"] == "image_not_found"
        assert runner.status is RunnerStatus.FAILED


async def test_an_adoption_is_told_once(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Each command of a command line is a manager of its own: the log must not tell of nothing else."""
    async with house.manager(on_shutdown="leave") as first:
        await (await first.create_runner(spec)).run(ask())
    for _ in range(3):
        async with house.manager(on_shutdown="leave") as later:
            await (await later.get_runner("alice")).run(ask())
            assert await kinds(later) == [K.CREATED, K.STARTED, K.ADOPTED]


async def test_a_spec_that_cannot_be_read_can_be_replaced(manager: RunnerManager, spec: AgentSpec) -> None:
    """What another version wrote is no reason to refuse what is wanted now; all of it changed."""
    await manager.create_runner(spec)
    store = manager.parts.install.store
    assert isinstance(store, SqlStore)
    await store._database.write(lambda tx: tx.execute(agents.update().values(spec='{"unheard_of": true}')))
    assert (await manager.create_runner(spec)).spec == spec
    assert (await manager.explain("alice"))[-1].reason == "its spec was changed: all of it"


async def test_who_never_was_has_no_story(manager: RunnerManager) -> None:
    """A mistyped id is an error, not an empty story."""
    with pytest.raises(RunnerNotFound):
        await manager.explain("nobody")
    with pytest.raises(InvalidInput):
        await manager.explain("../etc")
