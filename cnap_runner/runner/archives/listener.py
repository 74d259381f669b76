"""Who is told how an export or import goes on."""

from __future__ import annotations

from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


class ArchiveListener:
    """Hears of progress and of what is worth knowing. This one writes warnings to the log; a subclass may show them.

    Its methods are called from a worker thread, one call at a time, and must not block for long.
    """

    def on_progress(self, done: int, total: int) -> None:
        """Hear how many bytes are done, of about how many."""

    def on_note(self, text: str) -> None:
        """Hear of what an imported agent will use; the text holds no secret."""
        _log.info("archive", note=text)

    def on_warning(self, text: str) -> None:
        """Hear of something that was left out or is needed; the text holds no secret."""
        _log.warning("archive", warning=text)
