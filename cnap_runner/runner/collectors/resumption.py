"""Going on in an instance's output behind the line that was read last. Pure."""

from __future__ import annotations

from datetime import timedelta

from cnap_runner.model.instance import LogLine
from cnap_runner.runner.collectors.segments import Standing

SKEW = timedelta(seconds=1)
"""The two streams of an instance are stamped apart, so their times may be out of order by a moment."""


class Resumption:
    """Passes over what was read before, in an output that is read again from ``since`` on.

    The order of lines in an engine's log never changes, so all up to the last known line are known, whatever their times say.
    """

    def __init__(self, standing: Standing) -> None:
        last = standing.last
        self._key = None if last is None else (standing.stream, last.at)
        self._known_at = None if last is None else last.at
        self._left = 0 if last is None else last.count
        self._held: list[LogLine] = []
        self.is_past = self._known_at is None
        """Whether the last known line lies behind: all that comes is new."""
        self.since = None if self._known_at is None else self._known_at - SKEW
        """From when on the output must be read; None: from its beginning."""

    def take(self, line: LogLine) -> list[LogLine]:
        """Give the lines that are new now: none, this one, or those held back and this one."""
        if self.is_past:
            return [line]
        if (line.stream, line.at) == self._key:
            self._left -= 1
            if self._left == 0:
                self._held, self.is_past = [], True
            return []
        if self._known_at is not None and line.at is not None and line.at > self._known_at + SKEW:
            return [*self.rest(), line]
        self._held.append(line)
        return []

    def rest(self) -> list[LogLine]:
        """Give what was held back where the last known line did not come: the engine has forgotten it."""
        held, self._held, self.is_past = self._held, [], True
        known = self._known_at
        return [line for line in held if line.at is None or known is None or line.at > known]
