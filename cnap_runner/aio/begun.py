"""Something begun now and awaited later, that ends with the block it was begun in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


@asynccontextmanager
async def begun(work: Coroutine[Any, Any, T]) -> AsyncIterator[Awaitable[T]]:
    """Begin it, and give what its result can be awaited by; cancelled at the block's end if it still goes on.

    An error of it is raised where it is awaited, and nowhere if it is not.
    """
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # Not to be warned of.
