"""The text of one line of output, as it is kept and shown: redacted, and no longer than anybody reads. Pure."""

from __future__ import annotations

from cnap_runner.telemetry.redaction import Redactor

MAX_TEXT = 64 << 10
"""Characters of one line that are kept."""
MARGIN = 4 << 10
"""So many characters more are looked at: a secret that stands across the end of what is kept is found as a whole."""


def line_text(text: str, redactor: Redactor) -> str:
    """Redact a line; one that is longer than `MAX_TEXT` is cut, and says how long it was.

    What is cut off is never looked at: redacting takes time, and an agent may print lines of a mebibyte. Of a secret that stands across
    the end of what is looked at, no part is shown.
    """
    if len(text) <= MAX_TEXT:
        return redactor.redact(text)
    if len(text) <= MAX_TEXT + MARGIN:
        kept = redactor.redact(text)
    else:
        # What could be the beginning of a known value is held back; that of one that is known by its looks lies in the margin.
        kept = redactor.stream().feed(text[: MAX_TEXT + MARGIN])[:-MARGIN]
    return f"{kept[:MAX_TEXT]}… ({len(text)} characters)"
