"""The text of one line: redacted, and cut."""

from __future__ import annotations

import pytest

from cnap_runner.runner.collectors.line_text import MARGIN, MAX_TEXT, line_text
from cnap_runner.telemetry.redaction import REPLACEMENT, Redactor

KNOWN = "a-planted-value-" + "z" * 300
TOKEN = "sk-" + "a1b2c3d4" * 10


def test_a_long_line_is_cut() -> None:
    """It says how long it was; one that is just as long as may be is whole."""
    assert line_text("x" * MAX_TEXT, Redactor()) == "x" * MAX_TEXT
    for length in (MAX_TEXT + 1, MAX_TEXT + MARGIN, 1 << 20):
        assert line_text("x" * length, Redactor()) == "x" * MAX_TEXT + f"… ({length} characters)"


@pytest.mark.parametrize("end", [MAX_TEXT, MAX_TEXT + MARGIN])
@pytest.mark.parametrize("secret", [KNOWN, TOKEN])
def test_no_part_of_a_secret_is_shown_where_a_line_is_cut(secret: str, end: int) -> None:
    """Wherever the cut parts it, and however much of the line was replaced before."""
    redactor = Redactor([KNOWN])
    filler = f" {KNOWN}" * (MAX_TEXT // 2 // len(KNOWN))
    for shown in range(0, len(secret), len(secret) // 10):
        before = filler + " " * (end - shown - len(filler))
        said = line_text(before + secret + " " * MARGIN, redactor)
        assert secret[:4] not in said
        assert said.startswith(f" {REPLACEMENT}")


def test_what_is_cut_off_is_not_looked_at() -> None:
    """Else a line of a mebibyte would keep all other work waiting."""
    looked = []

    class Watched(Redactor):
        def redact(self, text: str) -> str:
            looked.append(len(text))
            return super().redact(text)

    line_text("y" * (1 << 20), Watched())
    assert looked == [MAX_TEXT + MARGIN]
