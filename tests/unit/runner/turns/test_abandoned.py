"""Runs whose managers were killed, on fakes: settled by whoever lives, as tasks that belong to nobody's call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunRequest
from cnap_runner.errors import RunTimedOut
from cnap_runner.model.ids import new_id
from cnap_runner.model.run import RunRecord, RunState
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.opencode.wire import Prompt
from cnap_runner.store.base import NewRun
from cnap_runner.testing.fake_opencode.script import Hold, Say, Step
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]
HELD = (Hold(), Say("Done."))


async def left_behind(
    house: House, manager: RunnerManager, agent_id: str = "alice", *, steps: Sequence[Step] = HELD
) -> str:
    """A run whose manager is gone, in the middle of its turn; its instance lives. Gives its id."""
    await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))
    await manager.start_runner(agent_id)
    install, server, at = manager.parts.install, house.servers[agent_id], datetime.now(UTC)
    session_id = server.add_session()
    await install.store.set_session(agent_id, "main", session_id)
    new = NewRun(new_id("run"), agent_id, "main", "m-dead", "f", None, None, at)
    run = (await install.store.enter_run(new, must_be_alone=False)).run
    assert await install.store.claim_turn(run, at=at, is_alive=lambda _: True)
    record = (await install.store.get_agent(agent_id)).runner
    sent = await install.store.mark_sending(
        run,
        session_id=session_id,
        instance_id=record.instance_id or "",
        after_message_id=None,
        at=at,
        runner=record.turn_began(at=at),
    )
    assert isinstance(sent, RunRecord)
    server.script(list(steps))
    client = install.client_for(server.base_url, record.instance_id or "")
    await client.send_prompt(session_id, Prompt(("build",)))
    await client.aclose()
    return run.run_id


async def ended(manager: RunnerManager, run_id: str) -> RunRecord:
    """Look at a run until it has ended, without waiting for it as a caller does."""
    with anyio.fail_after(5):
        while (run := await manager.get_run(run_id)).state is not RunState.ENDED:
            await anyio.sleep(0.02)
    return run


async def test_a_killed_managers_run_is_settled_while_others_live(house: House) -> None:
    """Nobody asks for it; and its agent is idle then, and stopped as any other."""
    async with house.manager(sweep_interval=0.1, idle_timeout=0.2, pause_after=None) as manager:
        run = await ended(manager, await left_behind(house, manager, steps=(Say("Done."),)))
        assert run.result is not None
        assert run.result.output == "Done."
        with anyio.fail_after(5):
            while (await manager.get_runner("alice")).status is not RunnerStatus.STOPPED:
                await anyio.sleep(0.02)


async def test_a_caller_who_gives_up_waiting_leaves_the_settlement_under_way(house: House, ask: Ask) -> None:
    """Whoever queues behind an abandoned run waits for its settlement; his short timeout does not end that."""
    async with house.manager() as manager:
        run_id = await left_behind(house, manager)
        runner = await manager.get_runner("alice")
        with pytest.raises(RunTimedOut):
            await runner.run(ask("mine", timeout=timedelta(seconds=0.5)))
        house.servers["alice"].release()
        await ended(manager, run_id)
        assert (await runner.run(ask("mine"))).success


async def test_long_turns_do_not_keep_others_from_being_settled(house: House) -> None:
    """Each agent's settlement goes its own way, however many others are followed."""
    async with house.manager(on_shutdown="leave") as manager:
        for agent_id in ("alice", "bob", "carol"):
            await left_behind(house, manager, agent_id)
        short = await left_behind(house, manager, "dave", steps=(Say("Done."),))
    async with house.manager() as manager:
        await ended(manager, short)


async def test_a_short_process_does_not_wait_for_somebody_elses_turn(house: House, ask: Ask) -> None:
    """What it began to settle it leaves as it is: the turn goes on, and the next manager settles it."""
    async with house.manager(on_shutdown="leave") as manager:
        run_id = await left_behind(house, manager)
    async with house.manager(on_shutdown="leave") as manager:
        bob = await manager.create_runner(AgentSpec(agent_id="bob", model="fake/demo"))
        assert (await bob.run(ask())).success
        with anyio.fail_after(5):
            while (await manager.get_run(run_id)).owner == "m-dead":
                await anyio.sleep(0.01)
        with anyio.fail_after(1):
            await manager.parts.drain()
    house.servers["alice"].release()
    async with house.manager() as manager:
        assert (await manager.wait_run(run_id)).output == "Done."
