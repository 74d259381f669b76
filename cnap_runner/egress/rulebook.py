"""The rules of the instances that live now: one file, written by managers, read by the proxy at each change.

An entry belongs to an instance's own address, because that is all that the proxy sees of who asks. A later instance with the same address
writes its own entry before any of its agent's code runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnap_runner.egress.rights import let_read, make_folder
from cnap_runner.egress.rules import Rule

RULES_FILE = "rules.json"
LOCK_FILE = "rules.lock"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What one instance may reach."""

    instance_id: str
    agent_id: str
    rules: tuple[Rule, ...]


Entries = Mapping[str, Entry]
"""By the instance's own address."""


class Rulebook:
    """The file in an install's ``egress/`` folder. Its methods block; any process of the install may call them at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, address: str, entry: Entry) -> None:
        """Let the instance at an address reach what its entry says, and nothing else. Replaces what stood there."""
        self._change(lambda found: {**_without(found, {entry.instance_id}), address: entry})

    def replace(self, instance_id: str, rules: tuple[Rule, ...]) -> bool:
        """Change what an instance may reach. One without an entry gets none; tell whether it has one."""

        def changed(found: Entries) -> Entries:
            return {
                address: Entry(entry.instance_id, entry.agent_id, rules) if entry.instance_id == instance_id else entry
                for address, entry in found.items()
            }

        return any(entry.instance_id == instance_id for entry in self._change(changed).values())

    def remove(self, instance_ids: Collection[str]) -> None:
        """Let these instances reach nothing any more. Without an entry already: nothing happens."""
        if any(entry.instance_id in instance_ids for entry in self.entries().values()):
            self._change(lambda found: _without(found, instance_ids))

    def entries(self) -> Entries:
        """Read all entries. A file that is missing or damaged has none: then nobody reaches anything."""
        try:
            return _decode(json.loads((self._folder / RULES_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def stamp(self) -> tuple[int, int] | None:
        """Give something that differs after each change; None without a file. Costs one look at the file's entry."""
        try:
            status = (self._folder / RULES_FILE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _change(self, change: Callable[[Entries], Entries]) -> Entries:
        make_folder(self._folder)
        with _locked(self._folder / LOCK_FILE):
            found = self.entries()
            wanted = change(found)
            if wanted != found or not (self._folder / RULES_FILE).exists():
                _write(self._folder / RULES_FILE, _encode(wanted))
        return wanted


def _without(found: Entries, instance_ids: Collection[str]) -> dict[str, Entry]:
    return {address: entry for address, entry in found.items() if entry.instance_id not in instance_ids}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held for the microseconds of one change, so waiting for it may block."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, value: Any) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            let_read(file.fileno())
            json.dump(value, file, indent=1, sort_keys=True)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _encode(entries: Entries) -> dict[str, Any]:
    return {"format": FORMAT, "entries": {address: asdict(entry) for address, entry in entries.items()}}


def _decode(data: Mapping[str, Any]) -> Entries:
    if data["format"] != FORMAT:
        return {}
    return {
        address: Entry(
            instance_id=entry["instance_id"],
            agent_id=entry["agent_id"],
            rules=tuple(Rule(**{**rule, "ports": tuple(rule["ports"])}) for rule in entry["rules"]),
        )
        for address, entry in data["entries"].items()
    }
