"""What agents may take of the disk, on fakes: real folders, a backend in memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Resources, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import BackendError, QuotaExceeded
from cnap_runner.model.instance import InstanceStatus
from cnap_runner.model.journal import DecisionKind
from cnap_runner.runner.workspaces import disk, gauge, halting, quota
from cnap_runner.runner.workspaces.quota_words import in_words
from cnap_runner.testing.fake_opencode import Hold, Say

Ask = Callable[..., RunRequest]
MIB = 1 << 20


@pytest.fixture
def small(spec: AgentSpec) -> AgentSpec:
    """An agent with a quota of 16 MiB and, at 150 %, a ceiling of 24 MiB."""
    return spec.model_copy(update={"resources": Resources(disk_mb=16)})


def fill(folder: Path, mib: int, *, name: str = "big") -> Path:
    """Take so much of the disk."""
    with (folder / name).open("ab") as file:
        file.write(b"\0" * (mib * MIB))
    return folder / name


async def change_during(manager: RunnerManager, house: Any, ask: Ask, change: Callable[[], object]) -> Any:
    """A turn in whose middle something changes, and its result."""
    runner = await manager.get_runner("alice")
    results = []

    async def go() -> None:
        results.append(await runner.run(ask()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        while not house.servers or not house.servers["alice"].prompts:
            await anyio.sleep(0.01)
        change()
    return results[0]


async def grow_during(manager: RunnerManager, house: Any, ask: Ask, mib: int, *, is_released: bool = False) -> Any:
    """A turn in whose middle the workspace grows, and its result."""

    def grow() -> None:
        fill(house.data_dir / "workspace" / "alice", mib)
        if is_released:
            house.servers["alice"].release()

    return await change_during(manager, house, ask, grow)


async def test_no_turn_begins_above_the_quota_and_one_does_once_there_is_room(
    manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask
) -> None:
    """The error says who, how much of what, and how to raise it. What somebody removed counts at once."""
    runner = await manager.create_runner(small)
    big = fill(house.data_dir / "agents" / "alice" / "home", 17)
    with pytest.raises(QuotaExceeded) as caught:
        await runner.run(ask())
    text = str(caught.value)
    assert "Agent alice uses 17 MiB (workspace 0 MiB, sessions 0 MiB, home 17 MiB)" in text
    assert "its quota of 16 MiB" in text
    assert "resources.disk_mb or CNAP_RUNNER_DISK_MB" in text
    assert (house.starts, house.prompts) == ([], [])
    big.unlink()
    assert (await runner.run(ask())).success


async def test_a_raised_quota_counts_at_once(manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask) -> None:
    """As the error advises."""
    runner = await manager.create_runner(small)
    fill(house.data_dir / "workspace" / "alice", 17)
    with pytest.raises(QuotaExceeded):
        await runner.run(ask())
    await manager.create_runner(small.model_copy(update={"resources": Resources(disk_mb=32)}))
    assert (await runner.run(ask())).success


async def test_what_a_turn_left_is_seen_before_the_next(
    manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask
) -> None:
    """Between quota and ceiling a turn ends as it likes; no further one begins."""
    await manager.create_runner(small)
    house.script([Hold(), Say("done")])
    result = await grow_during(manager, house, ask, 20, is_released=True)
    assert result.success
    await anyio.sleep(1.1)  # measured at most each second
    with pytest.raises(QuotaExceeded):
        await (await manager.get_runner("alice")).run(ask())


async def test_short_turns_are_not_measured_one_by_one(
    manager: RunnerManager, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten turns within a second cost one or two measurements, not ten."""
    count, real = [], disk.measure

    async def counted(*arguments: Any) -> Any:
        count.append(1)
        return await real(*arguments)

    monkeypatch.setattr(gauge, "measure", counted)
    monkeypatch.setattr(gauge, "pause_between_measurements", lambda _: timedelta(hours=1))
    runner = await manager.create_runner(spec)
    for _ in range(10):
        assert (await runner.run(ask())).success
    assert len(count) == 1


async def test_a_turn_that_passes_the_ceiling_is_frozen_and_aborted(
    manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen first, thawed to abort; the result has the reason; the agent lives on, in its status."""
    calls: list[str] = []
    for name in ("pause", "resume"):
        real = getattr(house.backend, name)

        async def noted(ref: Any, name: str = name, real: Any = real) -> None:
            runner = await manager.get_runner("alice")
            calls.append(f"{name} {runner.status}")
            await real(ref)

        monkeypatch.setattr(house.backend, name, noted)
    monkeypatch.setattr(halting, "SETTLE_SECONDS", 0.05)
    await manager.create_runner(small)
    house.script([Hold()])
    result = await grow_during(manager, house, ask, 30)
    assert (result.success, result.outcome, result.error.code) == (False, "failed", "quota_exceeded")
    assert not result.error.retryable
    assert "Agent alice uses 30 MiB" in result.error.message
    assert "hard ceiling of 24 MiB (its quota is 16 MiB)" in result.error.message
    assert calls == ["pause running", "resume running"]
    assert (await manager.get_runner("alice")).status is RunnerStatus.READY
    told = [decision for decision in await manager.explain("alice") if decision.kind is DecisionKind.ABORTED_QUOTA]
    assert [decision.evidence["run_id"] for decision in told] == [result.run_id]


async def test_a_freeze_whose_answer_was_lost_is_taken_back(
    manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A freeze that is said to have failed may have happened: the turn ends all the same, and nothing stays frozen."""
    pause = house.backend.pause

    async def lost(ref: Any) -> None:
        await pause(ref)
        raise BackendError("no answer came")

    monkeypatch.setattr(house.backend, "pause", lost)
    await manager.create_runner(small)
    house.script([Hold()])
    result = await grow_during(manager, house, ask, 30)
    assert result.error.code == "quota_exceeded"
    assert [instance.status for instance in house.backend._instances.values()] == [InstanceStatus.RUNNING]


async def test_what_goes_on_growing_after_its_turn_is_stopped(
    manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in the background that no abort ends: the instance is stopped, and says why."""
    monkeypatch.setattr(halting, "SETTLE_SECONDS", 0.3)
    await manager.create_runner(small)
    house.script([Hold()])
    result = await grow_during(manager, house, ask, 30)
    assert result.error.code == "quota_exceeded"
    with anyio.fail_after(20):
        while (await manager.get_runner("alice")).status is not RunnerStatus.STOPPED:
            fill(house.data_dir / "workspace" / "alice", 2, name="background")
            await anyio.sleep(0.1)
    assert "went on writing" in str((await manager.get_runner("alice")).record.reason)


@pytest.mark.parametrize("is_writing", [True, False])
async def test_who_fills_the_disk_between_turns_is_stopped(
    manager: RunnerManager, house: Any, small: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch, *, is_writing: bool
) -> None:
    """A process that outlives its turn writes where nobody waits for anything. One that only has much, and writes no more, stays."""
    for name, value in (("LOOK_SECONDS", 0.05), ("IDLE_LOOK_SECONDS", 0.05), ("NOTICED_BYTES", MIB)):
        monkeypatch.setattr(quota, name, value)
    monkeypatch.setattr(halting, "SETTLE_SECONDS", 0.3)
    room = [10**12]
    monkeypatch.setattr(gauge, "free_bytes", lambda _: room[0])
    await manager.create_runner(small)
    assert (await (await manager.get_runner("alice")).run(ask())).success
    fill(house.data_dir / "workspace" / "alice", 30)
    with anyio.move_on_after(20 if is_writing else 1):
        while (await manager.get_runner("alice")).status is not RunnerStatus.STOPPED:
            room[0] -= 4 * MIB
            if is_writing:
                fill(house.data_dir / "workspace" / "alice", 4, name="background")
            await anyio.sleep(0.1)
    record = (await manager.get_runner("alice")).record
    assert record.status is (RunnerStatus.STOPPED if is_writing else RunnerStatus.READY)
    assert ("went on writing without a turn" in str(record.reason)) == is_writing


async def test_a_nearly_full_disk_ends_turns_and_begins_none(
    house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's reserve is the host's, whoever took the rest."""
    room = [10**12]
    monkeypatch.setattr(gauge, "free_bytes", lambda _: room[0])
    monkeypatch.setattr(halting, "SETTLE_SECONDS", 0.05)
    async with house.manager(host_reserve_mb=100) as manager:
        runner = await manager.create_runner(spec)
        house.script([Hold()])
        result = await change_during(manager, house, ask, lambda: room.__setitem__(0, 99 * MIB))
        assert result.error.code == "quota_exceeded"
        assert "Only 99 MiB are left on the disk" in result.error.message
        with pytest.raises(QuotaExceeded, match=r"agents must leave 100 MiB\. .*CNAP_RUNNER_HOST_RESERVE_MB"):
            await runner.run(ask())
        room[0] = 10**12
        await anyio.sleep(1.1)  # the disk is looked at each second
        assert (await runner.run(ask())).success


@pytest.mark.parametrize(("size", "words"), [(0, "0 MiB"), (24 * MIB, "24 MiB"), (3 << 29, "1.5 GiB")])
def test_sizes_are_written_for_people(size: int, words: str) -> None:
    """In the units one thinks of disks in."""
    assert in_words(size) == words
