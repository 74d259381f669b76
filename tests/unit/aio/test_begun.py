"""Something begun now and awaited later."""

from __future__ import annotations

import anyio
import pytest

from cnap_runner.aio.begun import begun


async def test_it_goes_on_beside_the_block_and_gives_its_result() -> None:
    """What was begun runs while the block does something else."""
    order: list[str] = []

    async def work() -> str:
        order.append("work")
        return "done"

    async with begun(work()) as result:
        await anyio.sleep(0.01)
        order.append("block")
        assert await result == "done"
    assert order == ["work", "block"]


async def test_it_ends_with_the_block() -> None:
    """What nobody awaited is cancelled, and has ended when the block is left, whatever ended the block."""
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await anyio.sleep_forever()
        finally:
            ended = True

    async def fail_beside_it() -> None:
        async with begun(work()):
            await anyio.sleep(0)
            raise KeyError

    with pytest.raises(KeyError):
        await fail_beside_it()
    assert ended


async def test_an_error_is_raised_where_it_is_awaited_and_nowhere_else() -> None:
    """An error of what nobody awaits is nobody's."""

    async def fail() -> None:
        raise LookupError

    async with begun(fail()):
        await anyio.sleep(0.01)
    async with begun(fail()) as result:
        with pytest.raises(LookupError):
            await result
