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

    def __init__(self, *, threads: int) -> None:
        self._turns = anyio.Semaphore(threads)
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
            held = [each for each in waiting if self._held(each)]
            try:
                await self._write_held(held)
            finally:
                for each in held:
                    each.writing.release()

    async def write(self, writable: Writable) -> None:
        """Write for this one now."""
        async with writable.writing:
            await self._write_held([writable])

    def _held(self, writable: Writable) -> bool:
        try:
            writable.writing.acquire_nowait()
        except anyio.WouldBlock:
            self.note(writable)
            return False
        return True

    async def _write_held(self, held: list[Writable]) -> None:
        """Write for these, whose locks are held. Cancelled while it waits for its turn, it has taken nothing; later, all is written."""
        async with self._turns:
            with anyio.CancelScope(shield=True):
                if batches := [each for each in held if each.take()]:
                    # A limit of its own: this one has waited for its turn already.
                    await anyio.to_thread.run_sync(_store_all, batches, limiter=anyio.CapacityLimiter(1))
                    for each in batches:
                        each.settle()


def _store_all(batches: list[Writable]) -> None:
    for each in batches:
        each.store()
