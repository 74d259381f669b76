"""Two things awaited at the same time."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from cnap_runner.aio.begun import begun

First = TypeVar("First")
Second = TypeVar("Second")


async def both(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Give the results of both. An error of either is raised as it is, not in a group, and the other one is cancelled."""
    async with begun(second) as other:
        return await first, await other
