"""One holder per key, in order, and nothing left behind."""

from __future__ import annotations

import anyio
import pytest

from cnap_runner.aio.keyed_lock import KeyedLock


async def test_holders_of_one_key_follow_each_other_in_order() -> None:
    """Whoever came first holds first, and never two at a time."""
    lock: KeyedLock[str] = KeyedLock()
    told: list[str] = []

    async def hold(name: str) -> None:
        async with lock.holding("alice"):
            told.append(f"{name} in")
            await anyio.sleep(0.001)
            told.append(f"{name} out")

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(hold, name)
    assert told == ["a in", "a out", "b in", "b out", "c in", "c out"]


async def test_keys_do_not_know_each_other() -> None:
    """Another key is free while one is held."""
    lock: KeyedLock[str] = KeyedLock()
    async with lock.holding("alice"), lock.holding("bob"):
        assert len(lock) == 2
        assert lock.is_held("alice")


async def test_a_key_nobody_wants_is_forgotten() -> None:
    """Nothing is kept for keys of the past, also when the block fails."""
    lock: KeyedLock[int] = KeyedLock()
    with pytest.raises(ValueError, match="broken"):
        async with lock.holding(1):
            raise ValueError("broken")
    assert (len(lock), lock.is_held(1)) == (0, False)


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    """Who gives up waiting neither gets the lock nor keeps it from the next."""
    lock: KeyedLock[str] = KeyedLock()
    async with lock.holding("alice"):
        with anyio.move_on_after(0.01) as scope:
            async with lock.holding("alice"):
                pytest.fail("held twice")
        assert scope.cancelled_caught
        assert lock.is_held("alice")
    assert not lock.is_held("alice")
    async with lock.holding("alice"):
        assert len(lock) == 1


async def test_a_cancelled_waiter_does_not_break_the_line() -> None:
    """With the second of three gone, the third follows the first."""
    lock: KeyedLock[str] = KeyedLock()
    told: list[str] = []

    async def hold(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with lock.holding("alice"):
                told.append(name)

    async with anyio.create_task_group() as tasks, lock.holding("alice"):
        scopes = {name: anyio.CancelScope() for name in "bc"}
        for name, scope in scopes.items():
            tasks.start_soon(hold, name, scope)
        await anyio.sleep(0.005)
        scopes["b"].cancel()
        await anyio.sleep(0.005)
    assert (told, len(lock)) == (["c"], 0)
