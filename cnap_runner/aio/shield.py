"""Clean-up that cancellation cannot interrupt, within a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


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
    is_in_time, cancelled = await seen_through(_within(cleanup, limit))
    raise_late(cancelled)
    return is_in_time


async def seen_through(work: Coroutine[Any, Any, T]) -> tuple[T, asyncio.CancelledError | None]:
    """Await something to its end whatever kind of cancellation comes, however often, and give its result.

    A cancellation of this very task that came meanwhile is given with it, for the caller to raise once nothing is lost by that; one of
    the surrounding scope is raised where the caller waits next. The work's errors are raised; where the task was cancelled, as the
    cause of that.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None and task.cancelled():
        raise cancelled
    if cancelled is not None and (failure := task.exception()) is not None:
        raise cancelled from failure
    return task.result(), cancelled


def raise_late(cancelled: asyncio.CancelledError | None) -> None:
    """Raise a cancellation that was held off by `seen_through`, where there was one."""
    if cancelled is not None:
        raise cancelled


async def _within(cleanup: Callable[[], Awaitable[object]], limit: timedelta) -> bool:
    with anyio.move_on_after(limit.total_seconds()) as scope:
        await cleanup()
    return not scope.cancelled_caught
