"""Starts tried again, crash loops ended, agents recovered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunRequest
from cnap_runner.errors import (
    CrashLooping,
    EngineUnavailable,
    ImageNotFound,
    InstanceExited,
    InstanceStartFailed,
    InsufficientResources,
    InvalidInput,
    MaxContainersReached,
    OutOfMemory,
    RunnerError,
    ServerNotReady,
    ServerUnreachable,
    UnsupportedServerVersion,
)
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.recovery.crashes import crashes
from cnap_runner.runner.recovery.starting import is_passing
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.fake_opencode import HangingOpenCode
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]
K = DecisionKind
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Failing(FakeBackend):
    """Fails the next starts in the ways that it is given."""

    def __init__(self, house: House, *errors: RunnerError) -> None:
        super().__init__(serve=house._serve)
        self.errors = list(errors)
        self.tries = 0

    async def create(self, spec: Any) -> Any:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return await super().create(spec)


async def kinds(manager: RunnerManager, agent_id: str = "alice") -> list[DecisionKind]:
    """What was decided about an agent, oldest first."""
    return [decision.kind for decision in await (await manager.get_runner(agent_id)).explain()]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineUnavailable("away"), True),
        (InstanceStartFailed("no"), True),
        (InstanceExited("ended"), True),
        (ServerNotReady("mute"), True),
        (ServerUnreachable("gone"), True),
        (OutOfMemory("too big"), False),
        (ImageNotFound("which?"), False),
        (InsufficientResources("full"), False),
        (MaxContainersReached("taken"), False),
        (InvalidInput("wrong"), False),
        (UnsupportedServerVersion("2.0"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, *, expected: bool) -> None:
    """FR-009's classes: the engine, the container, its server. Health failures are among them (facts/cnap.md 1.5, defect 3)."""
    assert is_passing(error) is expected


async def test_a_start_that_fails_at_first_is_tried_again_and_written_down(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """The caller sees only the result; the decision log tells of the tries."""
    house.backend = backend = Failing(house, InstanceStartFailed("busy"), EngineUnavailable("away"))
    async with house.manager() as manager:
        result = await (await manager.create_runner(spec)).run(ask())
        assert result.success
        assert backend.tries == 3
        found = await kinds(manager)
    assert found == [K.CREATED, K.START_FAILED, K.RETRIED, K.START_FAILED, K.RETRIED, K.STARTED, K.RECOVERED]


async def test_after_one_try_and_three_retries_the_runner_is_failed_with_the_reason(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """Four tries in all; the last error is raised, the record says why, and the next run tries again."""
    house.backend = backend = Failing(house, *[InstanceStartFailed(f"busy {n}") for n in range(1, 5)])
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        with pytest.raises(InstanceStartFailed, match="busy 4"):
            await runner.run(ask())
        record = (await manager.get_runner("alice")).record
        assert (backend.tries, record.status) == (4, RunnerStatus.FAILED)
        assert "busy 4" in str(record.reason)
        assert (await kinds(manager))[-1] is K.GAVE_UP
        assert (await runner.run(ask())).success


async def test_an_engine_that_is_away_before_anything_is_created_leaves_a_failed_runner(
    house: House, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says so even where no try came as far as a container."""

    async def away(_: str) -> None:
        raise EngineUnavailable("No engine answers.")

    async with house.manager(max_retries=1) as manager:
        runner = await manager.create_runner(spec)
        with monkeypatch.context() as patch:
            patch.setattr(house.backend, "prepare", away)
            with pytest.raises(EngineUnavailable):
                await runner.run(ask())
        record = (await manager.get_runner("alice")).record
        assert (record.status, record.reason) == (RunnerStatus.FAILED, "No engine answers.")
        assert (await runner.run(ask())).success


async def test_what_cannot_mend_itself_is_raised_at_once(house: House, spec: AgentSpec, ask: Ask) -> None:
    """A missing image is not asked for four times."""
    house.backend = backend = Failing(house, ImageNotFound("There is no image x."))
    async with house.manager() as manager:
        with pytest.raises(ImageNotFound):
            await (await manager.create_runner(spec)).run(ask())
    assert backend.tries == 1


async def test_f17_a_crash_loop_ends_whatever_the_exit_code_and_recover_forgives_it(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """Instances that end again and again, with code 0 too, are not started any more; the workspace stays; recovering works, twice."""
    async with house.manager(crash_limit=3) as manager:
        runner = await manager.create_runner(spec)
        kept = house.data_dir / "workspace" / "alice" / "kept.txt"
        for code in (0, 0, 137):
            assert (await runner.run(ask())).success
            kept.write_text("mine")
            (instance_id,) = house.backend.live("alice")
            house.backend.kill(instance_id, code)
            while (await manager.get_runner("alice")).record.status is not RunnerStatus.FAILED:
                await anyio.sleep(0.01)
        for _ in range(2):
            with pytest.raises(CrashLooping, match="3 of its containers crashed") as refused:
                await runner.run(ask())
            assert "recover alice" in str(refused.value.hint)
        assert (await kinds(manager)).count(K.GAVE_UP) == 1
        assert (await manager.recover_runner("alice")).status is RunnerStatus.READY
        starts = len(house.starts)
        assert (await manager.recover_runner("alice")).status is RunnerStatus.READY
        assert len(house.starts) == starts
        assert (await runner.run(ask())).success
        assert kept.read_text() == "mine"


async def test_an_engine_that_restarts_again_and_again_takes_no_agent_out_of_service(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """Containers that are found dead after a reconnection are noted as such, and are no crash loop."""
    async with house.manager(crash_limit=2) as manager:
        runner = await manager.create_runner(spec)
        for _ in range(3):
            await manager.start_runner("alice")
            (instance_id,) = house.backend.live("alice")
            await house.servers["alice"].kill()
            house.backend._instances[instance_id].end(137)  # while nobody watched
            house.backend.reconnect()
            with anyio.fail_after(5):
                while (await manager.get_runner("alice")).status is not RunnerStatus.FAILED:
                    await anyio.sleep(0.01)
        assert (await runner.run(ask())).success
        deaths = [decision for decision in await runner.explain() if decision.kind is K.DIED]
    assert [death.evidence["found_after_reconnecting"] for death in deaths] == [True] * 3


async def test_a_changed_spec_deserves_another_try(house: House, spec: AgentSpec, ask: Ask) -> None:
    """Whoever changes the agent's settings has mended something; writing the same ones again has not."""
    async with house.manager(crash_limit=1, max_retries=0) as manager:
        runner = await manager.create_runner(spec)
        assert (await runner.run(ask())).success
        await house.kill()
        while (await manager.get_runner("alice")).record.status is not RunnerStatus.FAILED:
            await anyio.sleep(0.01)
        with pytest.raises(CrashLooping):
            await runner.run(ask())
        await manager.create_runner(spec)
        with pytest.raises(CrashLooping):
            await runner.run(ask())
        await manager.create_runner(spec.model_copy(update={"system_prompt": "Be careful."}))
        assert (await runner.run(ask())).success


@pytest.mark.parametrize("before", ["new", "ready", "paused", "stopped", "failed", "dead unseen"])
async def test_recover_works_from_every_state_and_twice(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, before: str
) -> None:
    """Whatever the agent was, it is ready afterwards, and stays as it is when asked again."""
    runner = await manager.create_runner(spec)
    if before != "new":
        await runner.run(ask())
        record = runner.record
        assert record.ref is not None
        match before:
            case "paused":
                await house.backend.pause(record.ref)
            case "stopped":
                await manager.stop_runner("alice")
            case "failed":
                await house.kill()
            case "dead unseen":
                await house.servers["alice"].kill()
                house.backend._instances.clear()
    assert (await manager.recover_runner("alice")).status is RunnerStatus.READY
    starts = len(house.starts)
    assert (await manager.recover_runner("alice")).status is RunnerStatus.READY
    assert len(house.starts) == starts
    assert (await runner.run(ask())).success


def decided(kind: DecisionKind, minutes_ago: float, **evidence: str) -> Decision:
    return Decision("alice", kind, "why", NOW - timedelta(minutes=minutes_ago), evidence)


def test_each_instance_crashes_once_and_only_crashes_count() -> None:
    """One that died while it started is written down twice and counted once; what an engine or image did is not the agent's doing."""
    log = [
        decided(K.START_FAILED, 1, instance_id="i4", error="image_not_found"),
        decided(K.START_FAILED, 2, instance_id="i3", error="instance_exited"),
        decided(K.DIED, 2, instance_id="i3"),
        decided(K.STOPPED, 3, instance_id="i2"),
        decided(K.OOM_KILLED, 4, instance_id="i1"),
        decided(K.DIED, 60, instance_id="i0"),
    ]
    found = crashes(log, since=NOW - timedelta(minutes=10))
    assert [decision.evidence["instance_id"] for decision in found] == ["i1", "i3"]


async def test_a_start_that_runs_out_of_memory_is_not_tried_again(house: House, spec: AgentSpec, ask: Ask) -> None:
    """The same limit would end it again; the error says what it was and what to do."""
    house.make_server = HangingOpenCode
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)

        async def end_it() -> None:
            with anyio.fail_after(5):
                while not (live := house.backend.live("alice")) or not house.servers:
                    await anyio.sleep(0.01)
            house.backend.kill(live[0], 137, is_oom=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_it)
            with pytest.raises(OutOfMemory, match="its limit was 2048 MiB") as ended:
                await runner.run(ask())
    assert "resources.memory_mb" in str(ended.value.hint)
    assert house.starts == ["alice"]
