"""Clean-up runs to its end, or to its limit, whatever is cancelled around it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import anyio
import pytest

from cnap_runner.aio.shield import raise_late, run_shielded, seen_through, shielded

LONG = timedelta(seconds=20)
SHORT = timedelta(milliseconds=20)


async def test_a_cancelled_scope_does_not_interrupt_clean_up() -> None:
    """The block goes on through its waits although the scope around it is cancelled; afterwards the cancellation counts again."""
    done: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with shielded(LONG) as shield:
            await anyio.sleep(0.01)
            done.append("cleaned up")
        await anyio.sleep(0)
        done.append("went on")
    assert done == ["cleaned up"]
    assert not shield.cancelled_caught


async def test_the_limit_ends_the_block() -> None:
    """Clean-up that takes too long is ended where it waits, without an error."""
    async with shielded(SHORT) as shield:
        await anyio.sleep_forever()
    assert shield.cancelled_caught


async def test_errors_of_the_block_are_raised() -> None:
    """A shield hides no error."""
    with pytest.raises(ValueError, match="broken"):
        async with shielded(LONG):
            raise ValueError("broken")


async def test_cancelling_the_task_again_and_again_does_not_interrupt() -> None:
    """`run_shielded` holds off cancellation of the task itself, and raises it afterwards."""
    done: list[str] = []
    cleaning = anyio.Event()

    async def cleanup() -> None:
        cleaning.set()
        await anyio.sleep(0.05)
        done.append("cleaned up")

    task = asyncio.create_task(run_shielded(cleanup, limit=LONG))
    await cleaning.wait()
    for _ in range(3):
        task.cancel()
        await anyio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["cleaned up"]


async def test_run_shielded_says_whether_it_was_in_time() -> None:
    """True for clean-up that ended by itself, False for one that was ended."""
    assert await run_shielded(anyio.lowlevel.checkpoint, limit=LONG)
    assert not await run_shielded(anyio.sleep_forever, limit=SHORT)


async def test_run_shielded_works_in_a_cancelled_scope() -> None:
    """A cancelled scope neither stops it nor makes it spin."""
    done: list[bool] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        done.append(await run_shielded(lambda: anyio.sleep(0.01), limit=LONG))
        await anyio.sleep(0)
        done.append(False)
    assert done == [True]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_run_shielded_raises_what_clean_up_raises(*, is_cancelled: bool) -> None:
    """Its error is raised, or is the cause of the cancellation that came meanwhile."""
    cleaning = anyio.Event()

    async def cleanup() -> None:
        cleaning.set()
        await anyio.sleep(0.01)
        raise ValueError("broken")

    task = asyncio.create_task(run_shielded(cleanup, limit=LONG))
    await cleaning.wait()
    if is_cancelled:
        task.cancel()
    with pytest.raises(asyncio.CancelledError if is_cancelled else ValueError) as raised:
        await task
    if not is_cancelled:
        assert str(raised.value) == "broken"


async def test_what_is_seen_through_gives_its_result_with_the_cancellation() -> None:
    """So that the caller can see to the result before it raises the cancellation."""
    got: list[str] = []

    async def work() -> str:
        await anyio.sleep(0.02)
        return "written"

    async def caller() -> None:
        result, cancelled = await seen_through(work())
        got.append(result)
        raise_late(cancelled)
        got.append("went on")

    await caller()
    task = asyncio.create_task(caller())
    await anyio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert got == ["written", "went on", "written"]
