"""Several managers on one data folder, and each interleaving that a rule of DESIGN §5 closes.

Managers of one process exclude each other as processes do (their locks are advisory locks on files of their own); what needs a real
``kill -9`` is in tests/faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Outcome, RunnerManager, RunnerStatus, RunRequest, RunState
from cnap_runner.errors import EngineUnavailable, IdempotencyConflict, MaxContainersReached, RunAborted
from cnap_runner.model.ids import new_id
from cnap_runner.model.run import RunRecord
from cnap_runner.store.base import NewRun, Store
from cnap_runner.testing.fake_opencode import Hold, Say

Ask = Callable[..., RunRequest]


def store_of(manager: RunnerManager) -> Store:
    return manager._usable().install.store


async def test_two_first_starts_at_once_make_one_install(house: Any) -> None:
    """Whoever comes second finds what the first made: one id, one key, one schema."""
    ids: list[str] = []

    async def start() -> None:
        async with house.manager() as manager:
            ids.append(manager._usable().install.install_id)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(start)
    assert len(ids) == 4
    assert len(set(ids)) == 1


async def test_two_managers_at_the_last_free_place(house: Any, ask: Ask) -> None:
    """Exactly one gets it; the other waits, and gets it when it is given back."""
    async with house.manager(max_containers=1) as one, house.manager(max_containers=1) as two:
        outputs: list[str] = []

        async def run(manager: RunnerManager, agent_id: str) -> None:
            runner = await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))
            outputs.append((await runner.run(ask(agent_id))).output)
            await manager.stop_runner(agent_id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, one, "alice")
            tasks.start_soon(run, two, "bob")
            most = 0
            while len(outputs) < 2:
                most = max(most, sum(i.is_live for i in house.backend._instances.values()))
                await anyio.sleep(0.005)
    assert sorted(outputs) == ["ALICE", "BOB"]
    assert most == 1


async def test_no_free_place_is_one_clear_error(house: Any, ask: Ask) -> None:
    """After the time to wait for one, while nobody can yield; nothing was created, and the ledger says not sent."""
    async with house.manager(max_containers=1, place_timeout=0.5) as manager:
        for agent_id in ("alice", "bob"):
            await manager.create_runner(AgentSpec(agent_id=agent_id, model="fake/demo"))
        await (await manager.get_runner("alice")).run(ask())
        await manager.hold("alice", "me", datetime.now(UTC) + timedelta(hours=1))
        with pytest.raises(MaxContainersReached):
            await (await manager.get_runner("bob")).run(ask())
        assert house.starts == ["alice"]
        (run,) = await manager.list_runs("bob")
        assert run.result is not None
        assert run.result.error is not None
        assert run.result.error.code == "not_sent"


async def test_runs_of_one_agent_from_two_managers_go_in_the_order_of_the_ledger(
    house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """One at a time, whoever sent them."""
    async with house.manager() as one, house.manager() as two:
        house.script([Say("0"), Hold()])
        runners = [await one.create_runner(spec), await two.get_runner("alice")]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runners[0].run, ask("0"))
            await until(lambda: house.prompts == ["0"])
            for number in range(1, 7):
                tasks.start_soon(runners[number % 2].run, ask(str(number)))
                await until_async(partial(queue_is, one, number + 1))
            house.servers["alice"].release()
        assert house.prompts == [str(number) for number in range(7)]
        entries = await one.list_runs("alice")
        assert [run.result.outcome for run in entries if run.result] == [Outcome.SUCCEEDED] * 7


async def test_a_key_used_twice_at_once_sends_once(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Two managers, one key: one drives the run, the other attaches; both get its result."""
    async with house.manager() as one, house.manager() as two:
        await one.create_runner(spec)
        results: list[Any] = []

        async def run(manager: RunnerManager) -> None:
            runner = await manager.get_runner("alice")
            results.append(await runner.run(ask("once", idempotency_key="k")))

        async with anyio.create_task_group() as tasks:
            for manager in (one, two, one, two):
                tasks.start_soon(run, manager)
        assert house.prompts == ["once"]
        assert {result.run_id for result in results} == {results[0].run_id}
        later = await (await two.get_runner("alice")).run(ask("once", idempotency_key="k"))
        assert later == results[0]
        assert house.prompts == ["once"]
        with pytest.raises(IdempotencyConflict):
            await (await two.get_runner("alice")).run(ask("another", idempotency_key="k"))


async def test_leaving_a_run_one_is_attached_to_does_not_end_it(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """An attached caller only detaches."""
    house.script([Say("goes "), Hold(), Say("on")])
    async with house.manager() as one, house.manager() as two:
        runner = await one.create_runner(spec)
        results: list[Any] = []

        async def run() -> None:
            results.append(await runner.run(ask("x", idempotency_key="k")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(lambda: house.prompts == ["x"])
            with anyio.move_on_after(0.3):
                await (await two.get_runner("alice")).run(ask("x", idempotency_key="k"))
            house.servers["alice"].release()
        assert results[0].success


async def test_a_run_that_was_not_sent_is_sent_under_its_key(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """An engine that was away leaves the entry not sent; the same call then does it."""
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        house.backend._images = set()
        with pytest.raises(Exception, match="no image"):
            await runner.run(ask("x", idempotency_key="k"))
        house.backend._images = None
        assert (await runner.run(ask("x", idempotency_key="k"))).output == "X"
        assert len(await manager.list_runs("alice")) == 1


async def test_a_stop_from_elsewhere_before_the_prompt_went_out(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """A run that waits in line when the stop is asked for is refused, and never sent; a later one works."""
    house.script([Say("head"), Hold()])
    async with house.manager() as one, house.manager() as two:
        runner = await one.create_runner(spec)
        raised: list[str] = []

        async def wait_in_line() -> None:
            try:
                await runner.run(ask("never"))
            except RunAborted as error:
                raised.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask("head"))
            await until(lambda: house.prompts == ["head"])
            tasks.start_soon(wait_in_line)
            await until_async(lambda: queue_is(one, 2))
            await two.stop_runner("alice")
        assert raised == ["aborted"]
        assert house.prompts == ["head"]
        assert (await runner.run(ask("later"))).output == "LATER"


async def test_a_stop_from_elsewhere_after_the_prompt_went_out(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """The holder hears the wish in mid-turn: the turn ends as aborted, with what it said, and the instance is stopped."""
    house.script([Say("half"), Hold()])
    async with house.manager() as one, house.manager() as two:
        runner = await one.create_runner(spec)
        results: list[Any] = []

        async def run() -> None:
            results.append(await runner.run(ask("x")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(lambda: house.prompts == ["x"])
            await two.stop_runner("alice")
            assert (await two.get_runner("alice")).status is RunnerStatus.STOPPED
        assert (results[0].outcome, results[0].output) == (Outcome.ABORTED, "half")


async def test_an_abort_from_elsewhere_leaves_the_instance_warm(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Only the task's turn ends."""
    house.script([Say("half"), Hold()])
    async with house.manager() as one, house.manager() as two:
        runner = await one.create_runner(spec)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask("x"))
            await until(lambda: house.prompts == ["x"])
            await (await two.get_runner("alice")).abort("main")
        assert (await runner.run(ask("y"))).output == "Y"
        assert house.starts == ["alice"]


async def test_an_engine_that_cannot_be_asked_proves_nothing(
    house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F04: a listing that fails is not an empty one; no status changes because of it."""
    async with house.manager() as one:
        runner = await one.create_runner(spec)
        await runner.run(ask())

        async def away(_: object) -> Any:
            raise EngineUnavailable("The engine is away.")

        with monkeypatch.context() as trouble:
            trouble.setattr(house.backend, "list_instances", away)
            async with house.manager(is_observer=True) as two:
                assert (await two.get_runner("alice")).status is RunnerStatus.READY
            house.backend.reconnect()
            await anyio.sleep(0.1)
            assert runner.status is RunnerStatus.READY
        assert (await runner.run(ask("on"))).output == "ON"
        assert house.starts == ["alice"]


# --- what a manager that was killed leaves, at each point of a run --------------------------------------------------------


DEAD = "m-dead"


async def enter(
    manager: RunnerManager, *, state: RunState, sent_to: str | None = None, session: str | None = None
) -> RunRecord:
    """An entry in this state whose owner is dead."""
    store, at = store_of(manager), datetime.now(UTC)
    new = NewRun(
        run_id=new_id("run"), agent_id="alice", task_id="main", owner=DEAD, fingerprint="f", idempotency_key=None,
        model=None, created_at=at,
    )  # fmt: skip
    run = (await store.enter_run(new, must_be_alone=False)).run
    if state is RunState.QUEUED:
        return run
    assert await store.claim_turn(run, at=at, is_alive=lambda _: True)
    run = await store.get_run(run.run_id)
    if state is RunState.STARTING:
        return run
    sending = await store.mark_sending(
        run, session_id=session or "", instance_id=sent_to or "", after_message_id=None, at=at
    )
    assert isinstance(sending, RunRecord)
    return sending


@pytest.fixture
async def warm(house: Any, spec: AgentSpec) -> Any:
    """A ready instance with an empty session, started by a manager that left it."""
    async with house.manager(on_shutdown="leave") as manager:
        await manager.create_runner(spec)
        runner = await manager.start_runner("alice")
        session = house.servers["alice"].add_session()
        await store_of(manager).set_session("alice", "main", session)
        return runner.record.instance_id, session


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.STARTING])
async def test_killed_before_sending_means_not_sent(house: Any, warm: Any, state: RunState) -> None:
    """Nothing left: the entry says so, and may be tried again."""
    async with house.manager(is_observer=True) as manager:
        run = await enter(manager, state=state)
    async with house.manager() as manager:
        result = await manager.wait_run(run.run_id)
    assert result.error is not None
    assert (result.outcome, result.error.code, result.error.retryable) == (Outcome.FAILED, "not_sent", True)
    assert house.prompts == []


async def test_killed_while_sending_and_nothing_arrived_is_proven_by_ending_the_instance(
    house: Any, warm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the instance lives absence proves nothing; once it has ended it does."""
    monkeypatch.setattr("cnap_runner.runner.turns.settlement.ARRIVAL_SECONDS", 0.2)
    instance_id, session = warm
    async with house.manager(is_observer=True) as manager:
        run = await enter(manager, state=RunState.SENDING, sent_to=instance_id, session=session)
    async with house.manager() as manager:
        result = await manager.wait_run(run.run_id)
        assert (await manager.get_runner("alice")).record.instance_id != instance_id
    assert result.error is not None
    assert result.error.code == "not_sent"


async def test_killed_while_sending_and_it_arrived_is_followed_to_its_true_end(house: Any, warm: Any) -> None:
    """The turn is followed where it runs; nothing is sent again."""
    instance_id, session = warm
    house.script([Say("true "), Hold(), Say("end")])
    async with house.manager(is_observer=True) as manager:
        run = await enter(manager, state=RunState.SENDING, sent_to=instance_id, session=session)
        install = manager._usable().install
        client = install.client_for(house.servers["alice"].base_url, instance_id)
        from cnap_runner.opencode.wire import Prompt

        await client.send_prompt(session, Prompt(texts=("x",)))
        await client.aclose()
    async with house.manager() as manager, anyio.create_task_group() as tasks:
        results: list[Any] = []

        async def wait() -> None:
            results.append(await manager.wait_run(run.run_id))

        tasks.start_soon(wait)
        await anyio.sleep(0.3)
        assert results == []
        house.servers["alice"].release()
    assert (results[0].outcome, results[0].output) == (Outcome.SUCCEEDED, "true end")
    assert house.prompts == ["x"]


async def test_killed_in_mid_turn_together_with_its_instance_is_interrupted(house: Any, warm: Any) -> None:
    """The session tells that the turn stopped in mid-answer; the next run of the task works."""
    instance_id, session = warm
    house.script([Say("half"), Hold()])
    async with house.manager(is_observer=True) as manager:
        run = await enter(manager, state=RunState.SENDING, sent_to=instance_id, session=session)
        client = manager._usable().install.client_for(house.servers["alice"].base_url, instance_id)
        from cnap_runner.opencode.wire import Prompt

        await client.send_prompt(session, Prompt(texts=("x",)))
        await anyio.sleep(0.1)
        await client.aclose()
        await house.kill()
    async with house.manager() as manager:
        result = await manager.wait_run(run.run_id)
    assert result.error is not None
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "interrupted")
    assert house.prompts == ["x"]


async def test_a_session_that_is_gone_leaves_the_end_unknown(house: Any, warm: Any) -> None:
    """Never a success."""
    instance_id, session = warm
    async with house.manager(is_observer=True) as manager:
        run = await enter(manager, state=RunState.SENDING, sent_to=instance_id, session=session)
    house.servers["alice"].forget_session(session)
    async with house.manager() as manager:
        result = await manager.wait_run(run.run_id)
    assert result.outcome is Outcome.UNKNOWN


async def test_entries_of_a_living_manager_are_never_touched(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """Whoever opens the install while a turn runs leaves it alone."""
    house.script([Say("mine "), Hold(), Say("alone")])
    async with house.manager() as one:
        runner = await one.create_runner(spec)
        results: list[Any] = []

        async def run() -> None:
            results.append(await runner.run(ask("x")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(lambda: house.prompts == ["x"])
            async with house.manager():
                await anyio.sleep(0.3)
            house.servers["alice"].release()
    assert results[0].output == "mine alone"


async def queue_is(manager: RunnerManager, length: int) -> bool:
    return len(await store_of(manager).queue_of("alice")) == length


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not is_so():
            await anyio.sleep(0.01)


async def until_async(is_so: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not await is_so():
            await anyio.sleep(0.01)


async def test_a_place_that_a_killed_manager_had_taken_for_a_start_is_given_back(house: Any, ask: Ask) -> None:
    """A start that was never finished does not take a place for ever; what it created is removed."""
    async with house.manager(is_observer=True) as dead:
        await dead.create_runner(AgentSpec(agent_id="bob", model="fake/demo"))
        parts = dead._usable()
        record = (await parts.install.store.get_agent("bob")).runner.start_intended(
            instance_id="i-1", spec_hash="h", at=datetime.now(UTC)
        )
        assert await parts.install.store.acquire_lease(
            "bob", parts.install.manager_id, "run:x", at=datetime.now(UTC), is_alive=lambda _: True
        )
        assert await parts.install.store.reserve_start(
            record, manager_id=parts.install.manager_id, max_containers=1, at=parts.install.now()
        )
        await house.backend.create(
            replace(
                (await parts.instances.planner.plan(AgentSpec(agent_id="bob", model="fake/demo"), generation=1)).wanted,
                instance_id="i-1",
            )
        )
    async with house.manager(max_containers=1) as manager:
        runner = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo"))
        assert (await runner.run(ask("free"))).output == "FREE"
        bob = await manager.get_runner("bob")
    assert (bob.status, bob.record.reason) == (RunnerStatus.FAILED, "its manager ended while it was starting")
    assert [i.spec.agent_id for i in house.backend._instances.values()] == ["alice"]
