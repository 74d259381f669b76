"""Counts over the install's life, and the install as it is now."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cnap_runner.model.counts import Counts
from cnap_runner.model.figures import Tally


class CountingStore(ABC):
    """What is counted."""

    @abstractmethod
    async def add_counts(self, counts: Counts) -> None:
        """Add to what is counted over the install's life. What a run's end or a decision adds is added with those already."""

    @abstractmethod
    async def tally(self) -> Tally:
        """Count the install as it now is. Takes milliseconds."""

    @abstractmethod
    def tally_blocking(self) -> Tally:
        """As `tally`, for a caller that cannot await: from any thread, and it blocks. A collector of metrics is such a one."""
