"""The run ledger and its queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cnap_runner.errors import (
    IdempotencyConflict,
    InstanceExited,
    LeaseLost,
    RunInProgress,
    RunnerNotFound,
    RunNotFound,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import Admission, Entry, Intent, NewRun, TurnContext, Wish, WishKind
from cnap_runner.store.sql import SqlStore

IsAlive = Callable[[str], bool]
Enter = Callable[..., Awaitable[RunRecord]]
Ending = Callable[..., RunResult]
LATER = timedelta(seconds=10)


def new_run(now: datetime, **changes: object) -> NewRun:
    fresh = NewRun("r2", "alice", "main", "m2", "print", "key", "f/m", now)
    return replace(fresh, **changes)  # type: ignore[arg-type]


# --- admission


async def test_runs_are_entered_at_the_end_of_the_queue(store: SqlStore, enter: Enter) -> None:
    """Entries of an agent are queued in the order of entering, whoever enters them."""
    entered = [await enter("r1"), await enter("r2", owner="m2"), await enter("r3")]
    await enter("rb", agent_id="bob")
    assert await store.queue_of("alice") == entered
    assert [run.state for run in entered] == [RunState.QUEUED] * 3
    assert await store.get_run("r2") == entered[1]


async def test_only_known_agents_have_runs(store: SqlStore, now: datetime) -> None:
    """Entering for an unknown or deleted agent raises RunnerNotFound, with a key or without."""
    await store.mark_deleted("bob", at=now)
    for agent_id in ("nobody", "bob"):
        for key in (None, "key"):
            with pytest.raises(RunnerNotFound):
                await store.enter_run(new_run(now, agent_id=agent_id, idempotency_key=key), must_be_alone=False)


async def test_who_will_not_wait_is_refused_while_there_is_an_unfinished_run(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime
) -> None:
    """must_be_alone raises RunInProgress and enters nothing; an ended entry or another agent's is no obstacle."""
    await enter("rb", agent_id="bob")
    first = await enter("r1")
    with pytest.raises(RunInProgress):
        await store.enter_run(new_run(now), must_be_alone=True)
    assert await store.queue_of("alice") == [first]
    await store.finish_run(first, ending(first), runner=None, at=now)
    entry = await store.enter_run(new_run(now), must_be_alone=True)
    admission, run = entry.admission, entry.run
    assert (admission, run.run_id) == (Admission.ENTERED, "r2")


async def test_a_key_attaches_to_its_entry_finished_or_not(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime
) -> None:
    """The same key with the same request finds the entry, must_be_alone or not; another agent's key is another key."""
    first = await enter("r1", key="key")
    assert await store.enter_run(new_run(now), must_be_alone=True) == Entry(Admission.ATTACHED, first)
    ended = await store.finish_run(first, ending(first), runner=None, at=now)
    assert await store.enter_run(new_run(now), must_be_alone=False) == Entry(Admission.ATTACHED, ended)
    assert (await store.enter_run(new_run(now, agent_id="bob"), must_be_alone=False)).admission is Admission.ENTERED


async def test_a_key_with_another_request_is_a_conflict(store: SqlStore, enter: Enter, now: datetime) -> None:
    """The same key with another fingerprint raises IdempotencyConflict."""
    await enter("r1", key="key")
    with pytest.raises(IdempotencyConflict):
        await store.enter_run(new_run(now, fingerprint="other"), must_be_alone=False)


async def test_a_failed_run_is_not_sent_again_under_its_key(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime
) -> None:
    """Only not_sent lets a key be used once more."""
    first = await enter("r1", key="key")
    ended = await store.finish_run(first, ending(first, "provider_error"), runner=None, at=now)
    assert await store.enter_run(new_run(now), must_be_alone=False) == Entry(Admission.ATTACHED, ended)


async def test_a_run_that_was_not_sent_is_queued_again_under_its_key(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime, is_alive: IsAlive
) -> None:
    """Such an entry keeps its id, becomes the caller's, goes to the end of the queue, and bears nothing of its first life."""
    first = await enter("r1", key="key")
    other = await enter("other")
    await store.finish_run(first, ending(first, "not_sent"), runner=None, at=now)
    entry = await store.enter_run(new_run(now + LATER), must_be_alone=False)
    admission, run = entry.admission, entry.run
    assert admission is Admission.ENTERED
    assert run == RunRecord(
        run_id="r1",
        agent_id="alice",
        task_id="main",
        place=run.place,
        state=RunState.QUEUED,
        owner="m2",
        fingerprint="print",
        created_at=now + LATER,
        idempotency_key="key",
        model="f/m",
    )
    assert await store.queue_of("alice") == [other, run]
    with pytest.raises(LeaseLost):
        await store.claim_turn(first, at=now, is_alive=is_alive)


async def test_a_refused_second_life_leaves_the_entry_as_it_was(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime
) -> None:
    """Where must_be_alone refuses to queue an entry again, its end stays known."""
    first = await enter("r1", key="key")
    ended = await store.finish_run(first, ending(first, "not_sent"), runner=None, at=now)
    await enter("other")
    with pytest.raises(RunInProgress):
        await store.enter_run(new_run(now), must_be_alone=True)
    assert await store.get_run("r1") == ended


# --- the turn


async def test_only_the_head_of_the_queue_has_its_turn(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime, is_alive: IsAlive
) -> None:
    """claim_turn gives the head its state and the lease; the next has its turn when the first has ended."""
    first, second = await enter("r1"), await enter("r2", owner="m2")
    assert not await store.claim_turn(second, at=now, is_alive=is_alive)
    assert await store.claim_turn(first, at=now, is_alive=is_alive)
    lease = await store.get_lease("alice")
    assert lease is not None
    assert (lease.manager_id, lease.purpose, lease.acquired_at) == ("m1", "run:r1", now)
    assert (await store.get_run("r1")).state is RunState.STARTING
    assert not await store.claim_turn(second, at=now, is_alive=is_alive)
    await store.finish_run(first, ending(first), runner=None, at=now)
    assert await store.claim_turn(second, at=now, is_alive=is_alive)


async def test_no_turn_while_somebody_living_has_the_lease(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """A change by a living manager, the run's own too, keeps the turn waiting; a dead one's lease is void."""
    run = await enter("r1")
    for holder in ("m2", "m1"):
        assert await store.acquire_lease("alice", holder, "stop", at=now, is_alive=is_alive)
        assert not await store.claim_turn(run, at=now, is_alive=is_alive)
        await store.release_lease("alice", holder)
    assert await store.acquire_lease("alice", "m2", "stop", at=now, is_alive=is_alive)
    living.remove("m2")
    assert await store.claim_turn(run, at=now, is_alive=is_alive)


async def test_a_turn_is_claimed_once(store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive) -> None:
    """An entry that is not queued any more, or is another's, raises LeaseLost."""
    run = await enter("r1")
    with pytest.raises(LeaseLost):
        await store.claim_turn(replace(run, owner="m2"), at=now, is_alive=is_alive)
    assert await store.claim_turn(run, at=now, is_alive=is_alive)
    with pytest.raises(LeaseLost):
        await store.claim_turn(run, at=now, is_alive=is_alive)


async def test_sending_writes_down_session_instance_and_last_message(
    store: SqlStore, sent: Enter, now: datetime
) -> None:
    """mark_sending keeps what recovery needs to find the turn again."""
    run = await sent("r1")
    assert (run.state, run.session_id, run.instance_id) == (RunState.SENDING, "ses", "i1")
    assert (run.after_message_id, run.sent_at) == ("msg", now)
    assert await store.get_run("r1") == run


async def test_sending_is_marked_once_and_only_with_the_lease(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive
) -> None:
    """Without lease, before its turn, or a second time, mark_sending raises LeaseLost: a prompt leaves once at most."""
    run = await enter("r1")

    async def mark() -> RunRecord | Wish:
        return await store.mark_sending(run, session_id="s", instance_id="i", after_message_id=None, at=now)

    with pytest.raises(LeaseLost):
        await mark()
    assert await store.claim_turn(run, at=now, is_alive=is_alive)
    await store.release_lease("alice", "m1")
    with pytest.raises(LeaseLost):
        await mark()
    assert await store.acquire_lease("alice", "m1", "run:r1", at=now, is_alive=is_alive)
    assert isinstance(await mark(), RunRecord)
    with pytest.raises(LeaseLost):
        await mark()


async def test_sending_saves_the_runner_or_nothing(
    store: SqlStore, enter: Enter, ready: RunnerRecord, now: datetime, is_alive: IsAlive
) -> None:
    """The runner's record goes along with mark_sending; a death noted meanwhile keeps the prompt from leaving."""
    run = await enter("r1")
    await store.claim_turn(run, at=now, is_alive=is_alive)
    running = ready.turn_began(at=now)
    await store.note_death("alice", "i1", reason="killed", at=now)
    with pytest.raises(InstanceExited, match="killed"):
        await store.mark_sending(run, session_id="s", instance_id="i1", after_message_id=None, runner=running, at=now)
    assert (await store.get_run("r1")).state is RunState.STARTING
    await store.save_runner(replace(ready, status=RunnerStatus.STARTING), manager_id="m1")
    await store.save_runner(ready, manager_id="m1")
    await store.mark_sending(run, session_id="s", instance_id="i1", after_message_id=None, runner=running, at=now)
    assert (await store.get_agent("alice")).runner == running


async def test_running_follows_sending_alone(store: SqlStore, enter: Enter, sent: Enter) -> None:
    """mark_running wants a sending entry of the same owner, else LeaseLost."""
    run = await sent("r1")
    with pytest.raises(LeaseLost):
        await store.mark_running(replace(run, owner="m2"))
    running, wishes = await store.mark_running(run)
    assert (running, wishes) == (replace(run, state=RunState.RUNNING), [])
    with pytest.raises(LeaseLost):
        await store.mark_running(run)
    with pytest.raises(LeaseLost):
        await store.mark_running(await enter("r2"))


async def test_an_end_is_stored_with_everything_at_once(
    store: SqlStore, sent: Enter, ready: RunnerRecord, ending: Ending, now: datetime
) -> None:
    """finish_run keeps the result, gives back the lease, sets last_active_at and the runner's record."""
    run = await sent("r1")
    idle = replace(ready, changed_at=now + LATER)
    ended = await store.finish_run(run, ending(run), runner=idle, at=now + LATER)
    assert ended == replace(run, state=RunState.ENDED, ended_at=now + LATER, result=ending(run))
    assert await store.get_run("r1") == ended
    assert await store.get_lease("alice") is None
    assert await store.queue_of("alice") == []
    row = await store.get_agent("alice")
    assert (row.last_active_at, row.runner) == (now + LATER, idle)


async def test_an_end_of_which_nothing_else_is_known_takes_its_runner_out_of_the_turn(
    store: SqlStore, sent: Enter, enter: Enter, ready: RunnerRecord, ending: Ending, now: datetime
) -> None:
    """Without a record, one that is in this very run's turn becomes ready and due; what else was written of it stays."""
    run, queued = await sent("r1"), await enter("r2")
    running = replace(ready.turn_began(at=now), limits=None)
    await store.save_runner(running, manager_id="m1")
    await store.finish_run(queued, ending(queued, "not_sent"), runner=None, at=now + LATER)
    assert (await store.get_agent("alice")).runner == running
    await store.finish_run(run, ending(run, "not_sent"), runner=None, at=now + LATER)
    assert (await store.get_agent("alice")).runner == running.turn_ended(at=now + LATER).due(now + LATER)


async def test_a_run_ends_once(store: SqlStore, sent: Enter, ending: Ending, now: datetime) -> None:
    """A second finish_run, or one by somebody else, raises LeaseLost; the first result stays."""
    run = await sent("r1")
    with pytest.raises(LeaseLost):
        await store.finish_run(replace(run, owner="m2"), ending(run), runner=None, at=now)
    ended = await store.finish_run(run, ending(run), runner=None, at=now)
    with pytest.raises(LeaseLost):
        await store.finish_run(run, ending(run, "instance_died"), runner=None, at=now)
    assert await store.get_run("r1") == ended


async def test_an_end_keeps_a_death_noted_before(
    store: SqlStore, sent: Enter, ready: RunnerRecord, ending: Ending, now: datetime
) -> None:
    """note_death before finish_run: the result is stored, and the runner stays failed."""
    run = await sent("r1")
    assert await store.note_death("alice", "i1", reason="killed", at=now)
    ended = await store.finish_run(run, ending(run, "instance_died"), runner=ready, at=now)
    assert ended.state is RunState.ENDED
    assert (await store.get_agent("alice")).runner.status is RunnerStatus.FAILED


async def test_a_death_after_the_end_is_noted(
    store: SqlStore, sent: Enter, ready: RunnerRecord, ending: Ending, now: datetime
) -> None:
    """finish_run before note_death: the runner is failed in the end all the same."""
    run = await sent("r1")
    await store.finish_run(run, ending(run), runner=ready, at=now)
    assert await store.note_death("alice", "i1", reason="killed", at=now)


async def test_an_end_leaves_another_instances_record_alone(
    store: SqlStore, sent: Enter, ready: RunnerRecord, ending: Ending, now: datetime
) -> None:
    """A late end of a turn says nothing about the instance that came after."""
    run = await sent("r1")
    await store.finish_run(run, ending(run), runner=replace(ready, instance_id="i0"), at=now)
    assert (await store.get_agent("alice")).runner == ready


async def test_an_end_leaves_a_lease_for_something_else_alone(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime, is_alive: IsAlive
) -> None:
    """A waiting run that is given up does not give back the lease its manager holds for a change."""
    run = await enter("r1")
    assert await store.acquire_lease("alice", "m1", "stop", at=now, is_alive=is_alive)
    await store.finish_run(run, ending(run, "aborted"), runner=None, at=now)
    assert await store.get_lease("alice") is not None


async def test_a_result_with_broken_text_is_kept(store: SqlStore, sent: Enter, ending: Ending, now: datetime) -> None:
    """Half a surrogate pair and NUL, which agents do write, cannot keep a result from being stored."""
    run = await sent("r1")
    ended = await store.finish_run(run, replace(ending(run), output="a\ud800b\x00ü"), runner=None, at=now)
    assert ended.result is not None
    assert ended.result.output == "a?b\x00ü"


# --- taking over


async def test_a_dead_owners_head_is_taken_over_as_it_is(
    store: SqlStore, sent: Enter, ending: Ending, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """take_over changes the owner and takes the dead one's lease; who was thought dead cannot change the entry any more."""
    run = await sent("r1")
    living.remove("m1")
    taken = await store.take_over(run, manager_id="m2", at=now, is_alive=is_alive)
    assert taken == replace(run, owner="m2")
    lease = await store.get_lease("alice")
    assert lease is not None
    assert (lease.manager_id, lease.purpose) == ("m2", "run:r1")
    with pytest.raises(LeaseLost):
        await store.finish_run(run, ending(run), runner=None, at=now)
    assert await store.take_over(run, manager_id="m3", at=now, is_alive=is_alive) is None
    assert (await store.finish_run(taken, ending(run), runner=None, at=now)).state is RunState.ENDED
    assert await store.get_lease("alice") is None


async def test_a_living_owners_entry_is_never_touched(
    store: SqlStore, sent: Enter, now: datetime, is_alive: IsAlive
) -> None:
    """take_over returns None while the owner lives, and nothing changes."""
    run = await sent("r1")
    assert await store.take_over(run, manager_id="m2", at=now, is_alive=is_alive) is None
    assert await store.get_run("r1") == run


async def test_only_the_head_is_taken_over(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """A dead owner's entry behind a living one's waits; an ended one is nobody's."""
    head, dead = await enter("r1"), await enter("r2", owner="m2")
    living.remove("m2")
    assert await store.take_over(dead, manager_id="m3", at=now, is_alive=is_alive) is None
    await store.finish_run(head, ending(head), runner=None, at=now)
    living.remove("m1")
    assert await store.take_over(head, manager_id="m3", at=now, is_alive=is_alive) is None
    assert await store.take_over(dead, manager_id="m3", at=now, is_alive=is_alive) is not None


async def test_nothing_is_taken_over_under_a_living_lease(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """While a living manager changes the agent, take_over returns None."""
    run = await enter("r1")
    living.remove("m1")
    for holder in ("m2", "m3"):
        assert await store.acquire_lease("alice", holder, "stop", at=now, is_alive=is_alive)
        assert await store.take_over(run, manager_id="m3", at=now, is_alive=is_alive) is None
        await store.release_lease("alice", holder)


async def test_a_queued_entry_taken_over_can_have_its_turn(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """The lease that came with take_over does not stand in the way of claim_turn."""
    run = await enter("r1")
    living.remove("m1")
    taken = await store.take_over(run, manager_id="m2", at=now, is_alive=is_alive)
    assert taken is not None
    assert await store.claim_turn(taken, at=now, is_alive=is_alive)


# --- reading


async def test_runs_are_listed_newest_first(
    store: SqlStore, enter: Enter, sent: Enter, ending: Ending, now: datetime
) -> None:
    """list_runs filters by agent and state and stops at the limit."""
    first = await sent("r1")
    first = await store.finish_run(first, ending(first), runner=None, at=now)
    second, third = await enter("r2"), await enter("r3", agent_id="bob")
    assert await store.list_runs() == [third, second, first]
    assert await store.list_runs("alice") == [second, first]
    assert await store.list_runs(states=[RunState.ENDED]) == [first]
    assert await store.list_runs(states=[]) == []
    assert await store.list_runs(limit=1) == [third]


async def test_an_unknown_run_is_not_found(store: SqlStore) -> None:
    """get_run raises RunNotFound."""
    with pytest.raises(RunNotFound):
        await store.get_run("nope")


async def test_the_ledger_outlives_the_deletion_of_its_agent(
    store: SqlStore, sent: Enter, ending: Ending, now: datetime
) -> None:
    """An entry of a deleted agent can still be ended and read."""
    run = await sent("r1")
    await store.mark_deleted("alice", at=now)
    await store.finish_run(run, ending(run), runner=None, at=now)
    await store.put_agent(AgentSpec(agent_id="alice", model="f/m"), at=now)
    assert (await store.get_run("r1")).state is RunState.ENDED


# --- wishes


async def test_a_wish_before_sending_keeps_the_prompt_from_leaving(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive
) -> None:
    """mark_sending returns the oldest wish that means the run, and changes nothing."""
    run = await enter("r1")
    assert await store.claim_turn(run, at=now, is_alive=is_alive)
    wish = await store.add_wish("alice", WishKind.STOP, task_id=None, at=now)
    await store.add_wish("alice", WishKind.ABORT, task_id="main", at=now)
    answer = await store.mark_sending(run, session_id="s", instance_id="i", after_message_id=None, at=now)
    assert answer == wish
    present = await store.get_run("r1")
    assert (present.state, present.session_id) == (RunState.STARTING, None)


async def test_a_wish_after_sending_is_seen_when_the_server_took_the_prompt(
    store: SqlStore, sent: Enter, now: datetime
) -> None:
    """mark_running returns the wishes that came while the prompt was on its way; wishes_for sees them in mid-turn."""
    run = await sent("r1")
    wish = await store.add_wish("alice", WishKind.DELETE, task_id=None, at=now)
    running, wishes = await store.mark_running(run)
    assert (running.state, wishes) == (RunState.RUNNING, [wish])
    assert await store.wishes_for(running) == [wish]
    await store.drop_wish(wish.wish_id)
    await store.drop_wish(wish.wish_id)
    assert await store.wishes_for(running) == []


async def test_a_wish_means_its_task_and_the_runs_before_it(store: SqlStore, enter: Enter, now: datetime) -> None:
    """A wish concerns one agent, one task or all, and no run entered after it."""
    before = await enter("r1")
    wish = await store.add_wish("alice", WishKind.ABORT, task_id="main", at=now)
    assert await store.wishes_for(before) == [wish]
    for unmeant in (
        await enter("r2"),
        replace(before, task_id="other"),
        replace(before, agent_id="bob"),
    ):
        assert await store.wishes_for(unmeant) == []


async def test_wishes_that_mean_nobody_any_more_do_not_pile_up(
    store: SqlStore, enter: Enter, ending: Ending, now: datetime
) -> None:
    """A new wish clears away those whose runs have all ended, and no others."""
    ended, waiting = await enter("r1"), await enter("r2", task_id="other")
    void = await store.add_wish("alice", WishKind.ABORT, task_id="main", at=now)
    valid = await store.add_wish("alice", WishKind.ABORT, task_id="other", at=now)
    await store.finish_run(ended, ending(ended), runner=None, at=now)
    assert await store.wishes_for(ended) == [void]
    latest = await store.add_wish("alice", WishKind.STOP, task_id=None, at=now)
    assert await store.wishes_for(ended) == [latest]
    assert await store.wishes_for(waiting) == [valid, latest]


# --- a turn claimed together with its entry ---------------------------------------------------------------------------


async def test_a_turn_claimed_at_its_entry_comes_with_what_it_begins_with(
    store: SqlStore, now: datetime, is_alive: IsAlive
) -> None:
    """At the head, with the lease free, one call enters, claims and reads the context; behind another one it only enters."""
    await store.set_session("alice", "main", "ses_1")
    first = await store.enter_run(new_run(now, idempotency_key=None), must_be_alone=False, is_alive=is_alive)
    assert first.run.state is RunState.STARTING
    assert (
        first.context
        == await store.turn_context("alice", "main")
        == TurnContext(await store.get_agent("alice"), "ses_1")
    )
    second = await store.enter_run(
        new_run(now, run_id="r3", idempotency_key=None), must_be_alone=False, is_alive=is_alive
    )
    assert (second.run.state, second.context) == (RunState.QUEUED, None)


# --- where a prompt is to go, known when its run is entered -------------------------------------------------------------


@pytest.fixture
async def rested(
    store: SqlStore, ready: RunnerRecord, sent: Enter, ending: Callable[..., RunResult], now: datetime
) -> Intent:
    """After one turn of alice's task main; gives where its next prompt is to go."""
    await store.set_session("alice", "main", "s")
    run = await sent("r0")
    await store.finish_run(run, ending(run), runner=ready, at=now)
    return Intent(session_id="s", instance_id="i1", after_message_id="msg_1", last_active_at=now)


async def test_an_intent_that_holds_is_written_with_the_entry(
    store: SqlStore, rested: Intent, now: datetime, is_alive: IsAlive
) -> None:
    """The entry is sending to where the intent says, its agent's runner in a turn; what the turn begins with is from before that."""
    entry = await store.enter_run(
        new_run(now, run_id="r1", owner="m1", idempotency_key=None),
        must_be_alone=False,
        is_alive=is_alive,
        intent=rested,
    )
    run = await store.get_run("r1")
    assert entry.run == run
    assert (run.state, run.session_id, run.instance_id, run.after_message_id, run.sent_at) == (
        RunState.SENDING,
        "s",
        "i1",
        "msg_1",
        now,
    )
    assert (await store.get_agent("alice")).runner.status is RunnerStatus.RUNNING
    assert entry.context is not None
    assert entry.context.agent.runner.status is RunnerStatus.READY
    moved = await store.mark_sending(run, session_id="s2", instance_id="i1", after_message_id=None, at=now)
    assert isinstance(moved, RunRecord)
    assert moved.session_id == "s2"


@pytest.mark.parametrize(
    "other",
    [
        {"session_id": "s9"},
        {"instance_id": "i9"},
        {"last_active_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_an_intent_that_does_not_hold_changes_nothing(
    store: SqlStore, rested: Intent, now: datetime, is_alive: IsAlive, other: dict[str, Any]
) -> None:
    """Another session, another instance, or a turn that somebody else ended meanwhile: the entry is claimed, and no more."""
    intent = replace(rested, **other)
    entry = await store.enter_run(
        new_run(now, run_id="r1", owner="m1", idempotency_key=None),
        must_be_alone=False,
        is_alive=is_alive,
        intent=intent,
    )
    assert entry.run.state is RunState.STARTING
    assert (await store.get_run("r1")).session_id is None
    assert (await store.get_agent("alice")).runner.status is RunnerStatus.READY
