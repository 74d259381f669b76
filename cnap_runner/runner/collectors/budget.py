"""How much one agent may say before lines are dropped: a burst, and what comes back of it over time. Pure."""

from __future__ import annotations

BURST_BYTES = 32 << 20
"""As much as the engine keeps, so that all it has is collected after a time without a manager."""
BYTES_PER_SECOND = 1 << 20


class Budget:
    """A bucket of bytes. An agent that prints without end must not keep its manager from everything else."""

    def __init__(self, now: float) -> None:
        """``now``, here and below, is in seconds of any one clock."""
        self._left = float(BURST_BYTES)
        self._at = now

    def take(self, size: int, now: float) -> bool:
        """Take so many bytes, if they are left; tell whether they were."""
        self._left = min(float(BURST_BYTES), self._left + (now - self._at) * BYTES_PER_SECOND)
        self._at = now
        if self._left < size:
            return False
        self._left -= size
        return True
