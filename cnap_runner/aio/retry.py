"""Trying again, more slowly each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

Result = TypeVar("Result")

JITTER_SHARE = 0.25
"""Longest addition to a pause, as a share of the first one: many that failed together do not try again together."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often to try again, and how long to wait before."""

    retries: int
    """Tries after the first one."""
    first: timedelta
    """Pause before the first of them; doubled before each further one."""
    longest: timedelta


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that failed and is followed by another one."""

    error: BaseException
    tries: int
    """So far, this one included."""
    pause: timedelta
    """Before the next one."""


async def retried(
    operation: Callable[[], Awaitable[Result]],
    *,
    backoff: Backoff,
    is_passing: Callable[[BaseException], bool],
    failed: Callable[[Failure], Awaitable[None]],
) -> Result:
    """Give the result of ``operation``, trying again as long as its errors are passing ones and tries are left.

    The last error is raised as it is, and one that is not passing at once. ``failed`` is awaited before each pause. Cancelling
    ends a try or a pause.
    """

    async def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None and state.next_action is not None:
            await failed(Failure(error, state.attempt_number, timedelta(seconds=state.next_action.sleep)))

    first = backoff.first.total_seconds()
    retrying = AsyncRetrying(
        stop=stop_after_attempt(backoff.retries + 1),
        wait=wait_exponential_jitter(
            multiplier=first, max=backoff.longest.total_seconds(), jitter=first * JITTER_SHARE
        ),
        retry=retry_if_exception(is_passing),
        before_sleep=tell,
        sleep=anyio.sleep,
        reraise=True,
    )
    return await retrying(operation)
