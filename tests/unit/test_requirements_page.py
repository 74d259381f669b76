"""docs/requirements.md names tests and pages that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "requirements.md"


def test_every_named_test_exists() -> None:
    """A criterion whose test was renamed or removed is not shown any more."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 50
    missing = [f"{file}::{test}" for file, test in named if not _has(ROOT / "tests" / file, test)]
    assert missing == []


def test_every_criterion_has_its_test_or_its_figures() -> None:
    """No row promises without showing."""
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [
        row[0] for row in rows if "::" not in row[1] and "benchmarks.md" not in row[1] and "shown by" not in row[1]
    ] == []


def test_every_linked_page_exists() -> None:
    """Where we differ, the decision can be read."""
    links = re.findall(r"\]\(([\w/.-]+\.md)\)", PAGE.read_text(encoding="utf-8"))
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []


def _has(file: Path, test: str) -> bool:
    return (
        file.is_file()
        and re.search(rf"^(async )?def {test}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )
