"""The install's id, managers, uses and leases."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

from cnap_runner.model.run import RunRecord
from cnap_runner.store.base import Lease
from cnap_runner.store.sql import SqlStore

IsAlive = Callable[[str], bool]


async def test_an_install_has_one_id_for_ever(store: SqlStore, path: Path) -> None:
    """install_id is 12 characters of a-z and 0-9, the same in each call and after opening again."""
    made = await store.install_id()
    assert re.fullmatch(r"[a-z0-9]{12}", made)
    assert await store.install_id() == made
    other = SqlStore(path)
    await other.open()
    assert await other.install_id() == made
    await other.aclose()


async def test_the_dead_are_forgotten_and_their_entries_stay(
    store: SqlStore,
    enter: Callable[..., Awaitable[RunRecord]],
    now: datetime,
    is_alive: IsAlive,
    living: set[str],
) -> None:
    """forget_dead_managers drops rows, leases and uses of the dead, of nobody else, and no run."""
    run = await enter("r1", owner="m2")
    for manager_id, agent_id in (("m2", "alice"), ("m1", "bob")):
        await store.note_use(manager_id, agent_id)
        assert await store.acquire_lease(agent_id, manager_id, "stop", at=now, is_alive=is_alive)
    assert await store.forget_dead_managers(is_alive) == []
    living.remove("m2")
    assert await store.forget_dead_managers(is_alive) == ["m2"]
    assert await store.forget_dead_managers(is_alive) == []
    assert await store.get_lease("alice") is None
    assert await store.get_lease("bob") == Lease("bob", "m1", "stop", now)
    assert await store.get_run("r1") == run


async def test_signing_off_names_what_nobody_else_uses(store: SqlStore, is_alive: IsAlive, living: set[str]) -> None:
    """sign_off returns the manager's agents that no other living manager uses; a dead one's use does not count."""
    for manager_id, agent_id in (("m1", "alice"), ("m1", "alice"), ("m1", "bob"), ("m2", "bob"), ("m3", "alice")):
        await store.note_use(manager_id, agent_id)
    living.remove("m3")
    assert await store.sign_off("m1", is_alive) == ["alice"]
    assert await store.sign_off("m2", is_alive) == ["bob"]
    assert await store.sign_off("m2", is_alive) == []


async def test_ending_a_use_tells_whether_it_was_the_last(store: SqlStore, is_alive: IsAlive, living: set[str]) -> None:
    """end_use forgets one use, again too, and says whether no other living manager uses the agent."""
    for manager_id in ("m1", "m2"):
        await store.note_use(manager_id, "alice")
    assert not await store.end_use("m1", "alice", is_alive)
    assert await store.end_use("m2", "alice", is_alive)
    await store.note_use("m1", "alice")
    living.remove("m1")
    assert await store.end_use("m2", "alice", is_alive)


async def test_signing_off_gives_leases_back(store: SqlStore, now: datetime, is_alive: IsAlive) -> None:
    """sign_off drops the manager's leases; it can still take one to stop what it used."""
    assert await store.acquire_lease("alice", "m1", "stop", at=now, is_alive=is_alive)
    await store.sign_off("m1", is_alive)
    assert await store.get_lease("alice") is None
    assert await store.acquire_lease("alice", "m1", "shutdown", at=now, is_alive=is_alive)


async def test_a_lease_is_one_living_managers(
    store: SqlStore, now: datetime, is_alive: IsAlive, living: set[str]
) -> None:
    """A lease is given once, not even twice to the same manager; a dead holder's is void."""
    assert await store.get_lease("alice") is None
    assert await store.acquire_lease("alice", "m1", "stop", at=now, is_alive=is_alive)
    assert not await store.acquire_lease("alice", "m2", "stop", at=now, is_alive=is_alive)
    assert not await store.acquire_lease("alice", "m1", "stop", at=now, is_alive=is_alive)
    assert await store.acquire_lease("bob", "m2", "stop", at=now, is_alive=is_alive)
    living.remove("m1")
    assert await store.acquire_lease("alice", "m2", "start", at=now, is_alive=is_alive)
    assert await store.get_lease("alice") == Lease("alice", "m2", "start", now)


async def test_only_the_holder_gives_a_lease_back(store: SqlStore, now: datetime, is_alive: IsAlive) -> None:
    """release_lease by another, or of none, does nothing."""
    await store.release_lease("alice", "m1")
    assert await store.acquire_lease("alice", "m1", "stop", at=now, is_alive=is_alive)
    await store.release_lease("alice", "m2")
    assert await store.get_lease("alice") is not None
    await store.release_lease("alice", "m1")
    assert await store.get_lease("alice") is None


async def test_the_very_lease_is_given_back_and_no_later_one(store: SqlStore, now: datetime, is_alive: IsAlive) -> None:
    """give_back of one that was followed by another, for the same purpose and of the same manager, leaves that one."""
    earlier, later = Lease("alice", "m1", "stop", now), Lease("alice", "m1", "stop", now + timedelta(microseconds=1))
    assert await store.acquire_lease("alice", "m1", "stop", at=later.acquired_at, is_alive=is_alive)
    await store.give_back(earlier)
    assert await store.get_lease("alice") == later
    await store.give_back(later)
    assert await store.get_lease("alice") is None
