"""What the store keeps for recovery: agents that were given up, and runs that go on after an interruption."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from cnap_runner.errors import LeaseLost
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import RunRecord, RunState
from cnap_runner.store.base import Wish, WishKind
from cnap_runner.store.sql import SqlStore

Enter = Callable[..., Awaitable[RunRecord]]
IsAlive = Callable[[str], bool]


async def test_an_agent_is_given_up_once_and_forgiven_by_request_or_another_spec(
    store: SqlStore, now: datetime
) -> None:
    """The same spec again changes nothing; what forgives also says from when on crashes count."""
    assert await store.give_up("alice", at=now)
    assert not await store.give_up("alice", at=now + timedelta(seconds=1))
    spec = (await store.get_agent("alice")).spec
    assert (await store.put_agent(spec, at=now)).gave_up_at == now
    later = now + timedelta(minutes=1)
    assert await store.forgive("alice", at=later)
    row = await store.get_agent("alice")
    assert (row.gave_up_at, row.forgiven_at) == (None, later)
    assert not await store.forgive("alice", at=later)
    await store.give_up("alice", at=later)
    other = AgentSpec(agent_id="alice", model="fake/other")
    changed = await store.put_agent(other, at=later + timedelta(minutes=1))
    assert (changed.gave_up_at, changed.forgiven_at) == (None, later + timedelta(minutes=1))


async def test_a_run_goes_back_to_sending_with_the_message_after_which_it_goes_on(
    store: SqlStore, enter: Enter, now: datetime, is_alive: IsAlive
) -> None:
    """Whoever takes it over finds the latest prompt, and the first one; only its owner, with the lease, may do so."""
    run = await enter("r1")
    assert await store.claim_turn(run, at=now, is_alive=is_alive)
    with pytest.raises(LeaseLost):  # it was not sent yet
        await store.mark_resuming(run, instance_id="i2", resumed_after="msg2")
    sent = await store.mark_sending(run, session_id="s", instance_id="i1", after_message_id="msg1", at=now)
    assert isinstance(sent, RunRecord)
    running, _ = await store.mark_running(sent)
    again = await store.mark_resuming(running, instance_id="i2", resumed_after="msg2")
    assert isinstance(again, RunRecord)
    assert (again.state, again.resumes, again.instance_id) == (RunState.SENDING, 1, "i2")
    assert (again.after_message_id, again.turn_after) == ("msg1", "msg2")
    await store.add_wish("alice", WishKind.ABORT, task_id=None, at=now)
    assert isinstance(await store.mark_resuming(again, instance_id="i3", resumed_after="msg3"), Wish)
    assert await store.get_run("r1") == again
    await store.release_lease("alice", "m1")
    with pytest.raises(LeaseLost):
        await store.mark_resuming(again, instance_id="i3", resumed_after="msg3")
