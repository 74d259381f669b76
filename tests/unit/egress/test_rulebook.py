"""The file of rules that managers write and the proxy reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnap_runner.egress.rulebook import RULES_FILE, Entry, Rulebook
from cnap_runner.egress.rules import parse_rule

RULES = (parse_rule("example.com"), parse_rule("*.example.org:22"))


@pytest.fixture
def book(tmp_path: Path) -> Rulebook:
    return Rulebook(tmp_path / "egress")


def entry(instance_id: str, *rules: str) -> Entry:
    return Entry(instance_id, "alice", tuple(parse_rule(rule) for rule in rules))


def test_what_was_written_is_read(book: Rulebook, tmp_path: Path) -> None:
    """Another process reads the very rules that were written."""
    book.put("10.0.0.2", Entry("i-1", "alice", RULES))
    assert Rulebook(tmp_path / "egress").entries() == {"10.0.0.2": Entry("i-1", "alice", RULES)}


def test_address_belongs_to_its_latest_instance(book: Rulebook) -> None:
    """An instance with an address that another had before inherits nothing of its rules (FAILURES row 26)."""
    book.put("10.0.0.2", entry("i-1", "example.com"))
    book.put("10.0.0.2", entry("i-2"))
    assert book.entries() == {"10.0.0.2": entry("i-2")}


def test_instance_has_one_address(book: Rulebook) -> None:
    """What an instance may reach is bound to the address that it has now."""
    book.put("10.0.0.2", entry("i-1", "example.com"))
    book.put("10.0.0.3", entry("i-1", "example.com"))
    assert set(book.entries()) == {"10.0.0.3"}


def test_rules_change_in_place(book: Rulebook) -> None:
    """New rules replace an instance's old ones; an instance that is not there gets none."""
    book.put("10.0.0.2", entry("i-1", "example.com"))
    book.replace("i-1", entry("i-1", "example.org").rules)
    book.replace("i-2", entry("i-2", "example.org").rules)
    assert book.entries() == {"10.0.0.2": entry("i-1", "example.org")}


def test_removing_is_idempotent(book: Rulebook) -> None:
    """An instance without rules can be removed as often as one likes."""
    book.remove({"i-1"})
    book.put("10.0.0.2", entry("i-1", "example.com"))
    book.remove({"i-1"})
    book.remove({"i-1"})
    assert book.entries() == {}


def test_damaged_file_allows_nothing(book: Rulebook, tmp_path: Path) -> None:
    """What cannot be read allows nothing, and the next write mends it."""
    book.put("10.0.0.2", entry("i-1", "example.com"))
    (tmp_path / "egress" / RULES_FILE).write_text('{"format": 1, "entries": {"10.0.0.2": {}}}')
    assert book.entries() == {}
    book.put("10.0.0.3", entry("i-3", "example.com"))
    assert set(book.entries()) == {"10.0.0.3"}


def test_each_change_shows_in_the_stamp(book: Rulebook) -> None:
    """The proxy notices each change by one look."""
    stamps = [book.stamp()]
    for number in range(20):
        book.put("10.0.0.2", entry(f"i-{number}"))
        stamps.append(book.stamp())
    assert len(set(stamps)) == len(stamps)


def test_no_change_is_lost(book: Rulebook, tmp_path: Path) -> None:
    """Many writers at once lose nothing of each other's changes."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: Rulebook(tmp_path / "egress").put(f"10.0.0.{n}", entry(f"i-{n}")), range(40)))
    assert len(book.entries()) == 40
