"""Two things awaited at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

First = TypeVar("First")
Second = TypeVar("Second")


async def both(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Give the results of both. An error of either is raised as it is, not in a group, and the other one is cancelled."""
    task = asyncio.create_task(second)
    try:
        return await first, await task
    finally:
        if not task.done():
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        elif not task.cancelled():
            task.exception()  # It was raised above, or the error of the first was, which counts; neither is to be warned of.
