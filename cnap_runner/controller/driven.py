"""Whose turns a manager drives, as it knows itself. That it lives does not say: a turn may lose its driver before."""

from __future__ import annotations

from collections import Counter
from weakref import WeakKeyDictionary

from cnap_runner.runner.manager import RunnerManager


class Driven:
    """The tasks whose turns one manager drives. May be asked from any thread."""

    def __init__(self) -> None:
        self._claims: Counter[str] = Counter()

    def claim(self, task_id: str) -> None:
        """Say that a turn of a task is about to begin; before it is written down, or it would be settled as one that nobody drives.

        Counted: of two claims on a task one is refused by the store, and is dropped.
        """
        self._claims[task_id] += 1

    def drop(self, task_id: str) -> None:
        """Take one claim back: the turn is over, or did not begin, or nobody cares for it any more."""
        self._claims[task_id] -= 1
        if not self._claims[task_id]:
            del self._claims[task_id]

    def __contains__(self, task_id: str) -> bool:
        """Whether a turn of a task is driven here."""
        return task_id in self._claims


_known: WeakKeyDictionary[RunnerManager, Driven] = WeakKeyDictionary()


def driven_by(manager: RunnerManager) -> Driven:
    """Give what a manager drives: one for its executors and all its `Tasks`, for any of these settles what none of them drives."""
    return _known.setdefault(manager, Driven())
