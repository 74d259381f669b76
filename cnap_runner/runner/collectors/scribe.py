"""Writing what many collectors have read: all of it together, now and then, by one visit of a thread."""

from __future__ import annotations

from typing import Protocol

import anyio
import anyio.to_thread

WRITE_SECONDS = 0.3
"""How long a line waits for others, to be written with them."""


class Writable(Protocol):
    """A collector, as the scribe sees it."""

    writing: anyio.Lock
    """Held while its lines are written."""

    def take(self) -> bool:
        """Make up a batch of what was read; tell whether there is any. Under the lock, as are the next two."""
        ...

    def store(self) -> None:
        """Write the batch. Blocks; never raises an `OSError`, but keeps it in mind."""
        ...

    def settle(self) -> None:
        """Count what became of the batch."""
        ...


class Scribe:
    """Writes for all collectors of one manager. Costs nothing while nobody prints."""

    def __init__(self, threads: anyio.CapacityLimiter) -> None:
        self._threads = threads
        self._waiting: set[Writable] = set()
        self._came = anyio.Event()

    def note(self, writable: Writable) -> None:
        """Write for this one before long."""
        self._waiting.add(writable)
        self._came.set()

    async def run(self) -> None:
        """Write until cancelled; what is left then is its collectors' to write."""
        while True:
            await self._came.wait()
            await anyio.sleep(WRITE_SECONDS)
            self._came = anyio.Event()
            waiting, self._waiting = self._waiting, set()
            await self._write([each for each in waiting if self._held(each)])

    async def write(self, writable: Writable) -> None:
        """Write for this one now."""
        async with writable.writing:
            if writable.take():
                await anyio.to_thread.run_sync(writable.store, limiter=self._threads)
                writable.settle()

    def _held(self, writable: Writable) -> bool:
        try:
            writable.writing.acquire_nowait()
        except anyio.WouldBlock:
            self.note(writable)
            return False
        return True

    async def _write(self, held: list[Writable]) -> None:
        try:
            batches = [each for each in held if each.take()]
            if batches:
                await anyio.to_thread.run_sync(_store_all, batches, limiter=self._threads)
                for each in batches:
                    each.settle()
        finally:
            for each in held:
                each.writing.release()


def _store_all(batches: list[Writable]) -> None:
    for each in batches:
        each.store()
