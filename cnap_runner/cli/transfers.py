"""How an export or import is shown while it goes on."""

from __future__ import annotations

from typing import Self

from cnap_runner.cli.output import note, stderr
from cnap_runner.cli.printing import Progress
from cnap_runner.runner.archives.listener import ArchiveListener

MOST_WARNINGS = 50


class ShownTransfer(ArchiveListener):
    """On a terminal a line that counts; warnings at the end, one line each, so that none is overwritten."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._console = stderr()
        self._progress = Progress(self._console)
        self._percent = -1
        self._notes: list[str] = []
        self._warnings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.clear()
        for text in self._notes:
            note(text)
        for text in self._warnings[:MOST_WARNINGS]:
            note(f"warning: {text}", style="yellow")
        if len(self._warnings) > MOST_WARNINGS:
            note(f"warning: … and {len(self._warnings) - MOST_WARNINGS} more like these", style="yellow")

    def on_progress(self, done: int, total: int) -> None:
        """Say how much is done, when it is a percent more."""
        percent = 100 * done // max(total, 1)
        if percent != self._percent and self._console.is_terminal:
            self._percent = percent
            self._progress.say(f"{self._what}: {percent} % of {total / 1e6:.0f} MB")

    def on_note(self, text: str) -> None:
        """Keep it for the end."""
        self._notes.append(text)

    def on_warning(self, text: str) -> None:
        """Keep it for the end."""
        self._warnings.append(text)
