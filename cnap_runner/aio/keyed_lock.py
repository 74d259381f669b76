"""One lock per key, for as long as somebody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted_by: int = 0
    """Holder and waiters together."""


class KeyedLock(Generic[Key]):
    """Mutual exclusion per key, within one event loop: ``async with lock.holding(key): …``.

    Waiters of a key get it in the order they came. One that is cancelled while it waits leaves nothing behind. A key nobody wants is forgotten.
    Not reentrant.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    @asynccontextmanager
    async def holding(self, key: Key) -> AsyncIterator[None]:
        """Hold the key's lock for the block."""
        entry = self._entries.setdefault(key, _Entry())
        entry.wanted_by += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.wanted_by -= 1
            if not entry.wanted_by:
                del self._entries[key]

    def is_held(self, key: Key) -> bool:
        """Whether somebody holds or is about to get the key's lock."""
        return key in self._entries

    def __len__(self) -> int:
        """How many keys are held."""
        return len(self._entries)
