"""Two things awaited at the same time: both results, or one error, and nothing left running."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from cnap_runner.aio.both import both


async def test_both_results_are_given() -> None:
    """Each goes on while the other waits."""
    came = asyncio.Event()

    async def first() -> int:
        await came.wait()
        return 1

    async def second() -> str:
        came.set()
        return "two"

    assert await both(first(), second()) == (1, "two")


async def test_error_of_either_is_raised_as_it_is_and_ends_the_other() -> None:
    """No group, and the other one is cancelled before the error comes out."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waiting")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await both(fail(), wait())
    assert ended == ["waiting"]


async def test_error_of_the_first_counts_where_both_fail() -> None:
    """The other one is not warned of later."""

    async def fail(error: Exception, steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        raise error

    with pytest.raises(LookupError):
        await both(fail(LookupError(), 3), fail(ValueError(), 1))
    with pytest.raises(ValueError, match="second"):
        await both(asyncio.sleep(0), fail(ValueError("second"), 3))


async def test_cancelling_ends_both() -> None:
    """Neither goes on after the caller has left."""
    ended: list[int] = []

    async def wait(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with anyio.move_on_after(0.01):
        await both(wait(1), wait(2))
    assert sorted(ended) == [1, 2]
