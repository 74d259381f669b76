"""docs/security.md and the attacks name each other."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
_TEST = re.compile(r"def (test_\w+)\(")


def test_every_test_that_the_page_names_exists() -> None:
    """No defence is claimed by a test that is gone."""
    known = {name for path in TESTS.rglob("test_*.py") for name in _TEST.findall(path.read_text(encoding="utf-8"))}
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert named
    assert named - known == set()


def test_every_attack_is_on_the_page() -> None:
    """Nobody has to read the tests to know what was tried."""
    page = PAGE.read_text(encoding="utf-8")
    attacks = [
        _TEST.findall(path.read_text(encoding="utf-8")) for path in (TESTS / "integration" / "security").glob("*.py")
    ]
    assert [name for names in attacks for name in names if f"`{name}`" not in page] == []
