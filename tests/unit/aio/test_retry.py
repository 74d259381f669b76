"""Trying again, more slowly each time."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from cnap_runner.aio.retry import Backoff, Failure, retried

QUICK = Backoff(retries=3, first=timedelta(milliseconds=1), longest=timedelta(milliseconds=3))


class Flaky:
    """Fails so many times, then works."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.calls = 0
        self.failures = failures
        self.error = error or ConnectionError("away")
        self.heard: list[Failure] = []

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"

    async def hear(self, failure: Failure) -> None:
        self.heard.append(failure)

    async def try_it(self, backoff: Backoff = QUICK) -> str:
        def is_passing(error: BaseException) -> bool:
            return isinstance(error, ConnectionError)

        return await retried(self, backoff=backoff, is_passing=is_passing, failed=self.hear)


async def test_what_works_after_some_failures_gives_its_result() -> None:
    """Each failure is told, with how many tries there were; then the result comes."""
    flaky = Flaky(2)
    assert await flaky.try_it() == "done"
    assert [failure.tries for failure in flaky.heard] == [1, 2]


async def test_there_is_one_try_and_so_many_retries_and_the_last_error_is_raised_as_it_is() -> None:
    """Three retries are four calls; nobody is told of a pause that never comes."""
    flaky = Flaky(99)
    with pytest.raises(ConnectionError) as caught:
        await flaky.try_it()
    assert caught.value is flaky.error
    assert (flaky.calls, len(flaky.heard)) == (4, 3)


async def test_an_error_that_does_not_pass_is_raised_at_once() -> None:
    """No second try can mend it."""
    flaky = Flaky(99, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        await flaky.try_it()
    assert (flaky.calls, flaky.heard) == (1, [])


async def test_pauses_double_up_to_the_longest() -> None:
    """One second, two, four … up to the longest, each with a little added so that not all try at once."""
    flaky = Flaky(5)
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "sleep", note)
        backoff = Backoff(retries=5, first=timedelta(seconds=1), longest=timedelta(seconds=8))
        assert await flaky.try_it(backoff) == "done"
    for pause, least in zip(pauses, (1, 2, 4, 8, 8), strict=True):
        assert least <= pause <= min(least + 0.25, 8)


async def test_a_cancelled_pause_ends_the_tries() -> None:
    """Whoever waits may leave at any moment; nothing is tried any more."""
    flaky = Flaky(99)
    with anyio.move_on_after(0.05) as scope:
        await flaky.try_it(Backoff(retries=3, first=timedelta(hours=1), longest=timedelta(hours=1)))
    assert scope.cancelled_caught
    assert flaky.calls == 1
