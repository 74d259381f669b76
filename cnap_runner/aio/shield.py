"""Clean-up that cancellation cannot interrupt, within a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio


@asynccontextmanager
async def shielded(limit: timedelta) -> AsyncIterator[anyio.CancelScope]:
    """Run a block to its end although the surrounding scope is, or will be, cancelled; for clean-up in ``finally``.

    At the limit the block is ended where it waits and no error is raised; the scope that is yielded then has ``cancelled_caught``.
    Errors of the block are raised as usual. A further `asyncio.Task.cancel` of this very task, which no scope can hold off, does
    interrupt the block: where callers bring that about, use `run_shielded`.
    """
    with anyio.move_on_after(limit.total_seconds(), shield=True) as scope:
        yield scope


async def run_shielded(cleanup: Callable[[], Awaitable[object]], *, limit: timedelta) -> bool:
    """Run a coroutine function to its end whatever kind of cancellation comes, however often; returns whether it ended in time.

    At the limit it is ended where it waits. Its errors are raised. A cancellation that came meanwhile is raised afterwards.
    """
    task = asyncio.create_task(_within(cleanup, limit))
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        raise cancelled from failure
    raise cancelled


async def _within(cleanup: Callable[[], Awaitable[object]], limit: timedelta) -> bool:
    with anyio.move_on_after(limit.total_seconds()) as scope:
        await cleanup()
    return not scope.cancelled_caught
