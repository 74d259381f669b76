"""What somebody, or the machine, does to an agent from outside."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from cnap_runner import AgentSpec, Outcome, RunnerManager, RunRequest
from cnap_runner.errors import ImageNotFound
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.recovery.resync import Resync
from cnap_runner.testing.fake_opencode.script import Hold, Say
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]


@pytest.mark.parametrize("made_again", [False, True])
async def test_a_workspace_removed_by_hand_is_made_anew_with_a_new_container(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, *, made_again: bool
) -> None:
    """The container has the removed folder, whoever made another one of that name; the session goes on in a new container."""
    runner = await manager.create_runner(spec)
    first = await runner.run(ask())
    workspace = house.data_dir / "workspace" / "alice"
    kept = workspace.with_name("kept")  # else the next folder could get the same inode
    workspace.rename(kept)
    if made_again:
        workspace.mkdir()
    again = await runner.run(ask())
    assert (again.success, again.session_id) == (True, first.session_id)
    assert house.starts == ["alice", "alice"]
    assert workspace.is_dir()
    assert any("workspace was removed" in decision.reason for decision in await runner.explain())
    shutil.rmtree(kept)


async def test_a_workspace_replaced_while_no_manager_was_there_is_noticed(
    house: House, spec: AgentSpec, ask: Ask
) -> None:
    """A manager that takes over a container knows which folder it has; one that was not touched goes on."""
    workspace = house.data_dir / "workspace" / "alice"
    async with house.manager(on_shutdown="leave") as manager:
        await (await manager.create_runner(spec)).run(ask())
    async with house.manager(on_shutdown="leave") as manager:
        await (await manager.get_runner("alice")).run(ask())
        assert house.starts == ["alice"]
    workspace.rename(workspace.with_name("kept"))
    workspace.mkdir()
    async with house.manager() as manager:
        assert (await (await manager.get_runner("alice")).run(ask())).success
    assert house.starts == ["alice", "alice"]


async def test_an_image_that_was_removed_names_itself_and_the_live_container_goes_on(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Only a start needs it; once it is back, so is the agent."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    house.backend._images = ()
    assert (await runner.run(ask())).success
    await manager.stop_runner("alice")
    with pytest.raises(ImageNotFound, match="cnap-runner:latest") as missing:
        await runner.run(ask())
    assert missing.value.hint
    house.backend._images = None
    assert (await runner.run(ask())).success


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)])
async def test_a_clock_that_jumps_in_mid_turn_costs_nothing(
    house: House, spec: AgentSpec, ask: Ask, jump: timedelta
) -> None:
    """The turn ends well, with no negative duration; agent, session and workspace stay, and the next turn works."""
    moved = [timedelta(0)]
    async with house.manager() as manager:
        parts = manager._usable()
        object.__setattr__(parts.install, "now", lambda: datetime.now(UTC) + moved[0])
        runner = await manager.create_runner(spec)
        await manager.start_runner("alice")
        house.script([Say("slow "), Hold(), Say("end")])
        results = []

        async def run() -> None:
            results.append(await runner.run(ask()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            with anyio.fail_after(5):
                while not house.prompts:
                    await anyio.sleep(0.01)
            moved[0] = jump
            await Resync(parts.install, parts.instances, parts._watch).look()
            house.servers["alice"].release()
        (result,) = results
        assert (result.outcome, result.output) == (Outcome.SUCCEEDED, "slow end")
        assert result.duration >= timedelta(0)
        assert (house.data_dir / "workspace" / "alice").is_dir()
        again = await runner.run(ask())
        assert (again.success, again.session_id) == (True, result.session_id)


async def test_a_store_that_somebody_locks_for_a_while_is_waited_for(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Whoever holds the database for half a second delays a run, and breaks none."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    other = sqlite3.connect(house.data_dir / "runner.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    async def let_go() -> None:
        await anyio.sleep(0.5)
        other.rollback()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(let_go)
        assert (await runner.run(ask())).success
    other.close()
    assert (await manager.get_runner("alice")).status is RunnerStatus.READY
