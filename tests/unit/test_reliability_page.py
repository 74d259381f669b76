"""docs/reliability.md tells the truth about what is tested."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\d+) \|.*\| (`test_.*) \|$", PAGE, re.MULTILINE))


def test_every_test_that_the_page_names_exists() -> None:
    """No rule is claimed by a test that is gone."""
    known = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))
    }
    assert set(re.findall(r"`(test_\w+)`", PAGE)) - known == set()


def test_each_way_to_fail_is_provoked() -> None:
    """All 28 of them, each by a test at least; one that is named after a row stands in that row."""
    assert list(ROWS) == [str(number) for number in range(1, 29)]
    for number, tests in ROWS.items():
        named = {int(row) for row in re.findall(r"_f(\d\d)", tests)}
        assert not named or int(number) in named
