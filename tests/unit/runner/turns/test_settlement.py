"""Runs whose managers were killed: what the next one finds out, and how it leaves the agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Outcome, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import InstanceStartFailed
from cnap_runner.model.ids import new_id
from cnap_runner.model.instance import InstanceSpec
from cnap_runner.model.run import RunRecord
from cnap_runner.opencode.wire import Prompt
from cnap_runner.store.base import NewRun
from cnap_runner.testing.fake_opencode.script import Hold, Say, Step, UseTool
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]
ENDLESS = (Say("Let me. "), UseTool("bash", {}, is_endless=True))
A_NIGHT = timedelta(hours=8)


async def left_behind(
    house: House, manager: RunnerManager, steps: Sequence[Step], *, ago: timedelta, on_interrupt: str = "fail"
) -> str:
    """A run in mid-turn that a manager, now dead, began so long ago, in an instance that lives; its id."""
    await manager.start_runner("alice")
    install = manager._usable().install
    store, at, server = install.store, datetime.now(UTC) - ago, house.servers["alice"]
    session_id = server.add_session()
    await store.set_session("alice", "main", session_id)
    new = NewRun(
        run_id=new_id("run"), agent_id="alice", task_id="main", owner="m-dead", fingerprint="f", idempotency_key=None,
        model=None, created_at=at, on_interrupt=on_interrupt,
    )  # fmt: skip
    run = (await store.enter_run(new, must_be_alone=False)).run
    assert await store.claim_turn(run, at=at, is_alive=lambda _: True)
    record = (await store.get_agent("alice")).runner
    where: dict[str, Any] = {"session_id": session_id, "instance_id": record.instance_id, "after_message_id": None}
    sent = await store.mark_sending(run, **where, at=at, runner=record.turn_began(at=at))
    assert isinstance(sent, RunRecord)
    server.script(steps)
    client = install.client_for(server.base_url, record.instance_id or "")
    await client.send_prompt(session_id, Prompt(("build",)))
    with anyio.fail_after(5):
        while not (messages := await client.messages(session_id)) or (
            steps is ENDLESS and not messages[-1].has_running_tool
        ):
            await anyio.sleep(0.01)
    await client.aclose()
    return new.run_id


async def test_it_has_the_time_that_its_agent_gives(house: House) -> None:
    """The limit in the spec counts for whoever follows a turn; the settings' one may be shorter."""
    spec = AgentSpec(agent_id="alice", model="fake/demo", life={"max_run_time": "2h"})
    async with house.manager(on_shutdown="leave", max_run_time="30m") as manager:
        await manager.create_runner(spec)
        run_id = await left_behind(house, manager, [Hold(), Say("Done.")], ago=timedelta(minutes=40))
    async with house.manager(max_run_time="30m") as manager, anyio.create_task_group() as tasks:

        async def release() -> None:
            await anyio.sleep(1.2)
            house.servers["alice"].release()

        tasks.start_soon(release)
        assert (await manager.wait_run(run_id)).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("steps", "outcome"), [((Hold(), Say("Done.")), Outcome.TIMED_OUT), ((Say("Done."),), Outcome.SUCCEEDED)]
)
async def test_only_what_is_at_work_is_out_of_time(
    house: House, spec: AgentSpec, steps: Sequence[Step], outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a night: a turn that is still at work is ended; one that had ended by itself has ended so."""
    async with house.manager(on_shutdown="leave") as manager:
        await manager.create_runner(spec)
        run_id = await left_behind(house, manager, steps, ago=timedelta(0))
        monkeypatch.setattr("cnap_runner.opencode.wire._moment", lambda value: value and datetime.now(UTC) - A_NIGHT)
    async with house.manager() as manager:
        assert (await manager.wait_run(run_id)).outcome is outcome


@pytest.mark.parametrize("on_interrupt", ["fail", "resume"])
async def test_time_in_which_nobody_was_there_does_not_count(house: House, spec: AgentSpec, on_interrupt: str) -> None:
    """Manager and container were gone for a night: the turn was interrupted, not out of time, and goes on where that is wanted."""
    async with house.manager(on_shutdown="leave") as manager:
        await manager.create_runner(spec)
        run_id = await left_behind(house, manager, ENDLESS, ago=A_NIGHT, on_interrupt=on_interrupt)
        await house.kill()
    house._turns.append([Say("Built.")])
    async with house.manager() as manager:
        result = await manager.wait_run(run_id)
    if on_interrupt == "resume":
        assert (result.outcome, result.output, len(house.prompts)) == (Outcome.SUCCEEDED, "Built.", 2)
    else:
        assert result.error is not None
        assert (result.error.code, result.error.tool, result.output) == ("interrupted", "bash", "Let me. ")


async def test_one_whose_end_cannot_be_known_leaves_a_ready_runner(house: House, spec: AgentSpec) -> None:
    """Its session is gone, its instance is not: the agent is in no turn any more."""
    async with house.manager(on_shutdown="leave") as manager:
        await manager.create_runner(spec)
        run_id = await left_behind(house, manager, [Hold()], ago=timedelta(0))
    (session_id,) = house.servers["alice"].sessions
    house.servers["alice"].forget_session(session_id)
    async with house.manager() as manager:
        assert (await manager.wait_run(run_id)).outcome is Outcome.UNKNOWN
        assert (await manager.get_runner("alice")).status is RunnerStatus.READY


async def test_recover_brings_back_an_agent_whose_run_could_not_be_settled(
    house: House, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts the instance that the settlement needs, and then the run ends, too; where it cannot, it says so."""
    async with house.manager(on_shutdown="leave", max_retries=0, sweep_interval=60) as manager:
        await manager.create_runner(spec)
        run_id = await left_behind(house, manager, ENDLESS, ago=timedelta(0))
        await house.kill()
        serve, failures = house.backend._serve, [InstanceStartFailed("no")] * 3

        async def fail(spec: InstanceSpec) -> str:
            if failures:
                raise failures.pop()
            assert serve is not None
            return await serve(spec)

        monkeypatch.setattr(house.backend, "_serve", fail)
        with pytest.raises(InstanceStartFailed):
            await manager.recover_runner("alice")
        await manager.recover_runner("alice")
        assert (await manager.get_runner("alice")).status is RunnerStatus.READY
        assert (await manager.get_run(run_id)).result is not None
