"""An agent's decision log as a diary: by day, in plain words, what happened again and again told once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, tzinfo
from itertools import groupby
from types import MappingProxyType

from cnap_runner.model.journal import Decision, DecisionKind

_K = DecisionKind

TITLES: MappingProxyType[DecisionKind, str] = MappingProxyType(
    {
        _K.CREATED: "Created",
        _K.CHANGED: "Changed",
        _K.STARTED: "Started",
        _K.START_FAILED: "Could not start",
        _K.ADOPTED: "Taken over",
        _K.PAUSED: "Paused",
        _K.RESUMED: "Woken",
        _K.STOPPED: "Stopped",
        _K.STOPPED_IDLE: "Stopped while idle",
        _K.YIELDED: "Gave its place to another",
        _K.RECYCLED_AGE: "Ended for its age",
        _K.RECYCLED_MEMORY: "Ended for its use of memory",
        _K.RECYCLED_CHANGE: "Ended for a change",
        _K.ABORTED_LIMIT: "Turn ended at its time limit",
        _K.ABORTED_QUOTA: "Turn ended at the disk's limit",
        _K.DIED: "Died",
        _K.OOM_KILLED: "Ran out of memory",
        _K.RETRIED: "Tried again",
        _K.RECOVERED: "Recovered",
        _K.GAVE_UP: "Given up",
        _K.SETTLED: "Run settled",
        _K.HELD: "Held",
        _K.RELEASED: "Released",
        _K.REFUSED: "Refused",
        _K.ANSWERED: "Answered",
        _K.ORPHAN_REMOVED: "Remains removed",
        _K.UPGRADED: "Upgraded",
        _K.DELETED: "Deleted",
    }
)
"""How each kind is called in a diary; a test pins that none is missing."""

_HIDDEN = frozenset({"instance_id", "instance"})
"""Names of containers: generations tell them apart as well."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00")

_UNITS = {"_seconds": " s", "_mb": " MiB", "_percent": " %"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a diary."""

    at: datetime
    """When it happened, the first time."""
    title: str
    reason: str
    facts: tuple[str, ...]
    """What it was decided by, in words; of the last time."""
    times: int = 1
    last_at: datetime | None = None
    """When it happened last, where it did more than once."""


@dataclass(frozen=True, slots=True)
class Day:
    """What happened on one day."""

    date: date
    entries: tuple[Entry, ...]


def diary(decisions: Iterable[Decision], *, zone: tzinfo | None) -> list[Day]:
    """Tell a log, oldest first; days are those of ``zone``, None: of this machine. The same thing for the same reason, several times in a
    row, is one entry."""
    told = [(decision.at.astimezone(zone), decision) for decision in decisions]
    return [
        Day(day, tuple(_entries([(at, decision) for at, decision in found])))
        for day, found in groupby(told, key=lambda pair: pair[0].date())
    ]


def facts_of(decision: Decision) -> tuple[str, ...]:
    """Put the evidence into words: ``took 3.9 s``, ``memory limit 512 MiB``. What is not known or said by the reason is left out."""
    return tuple(
        _fact(name, value)
        for name, value in decision.evidence.items()
        if value is not None and value is not False and name not in _HIDDEN and not _is_said(value, decision.reason)
    )


def _in_zone(text: str, zone: tzinfo | None) -> str:
    """Write the points in time of a text, ISO 8601 in UTC, as the diary's own are."""
    return _MOMENT.sub(lambda found: f"{datetime.fromisoformat(found[0]).astimezone(zone):%Y-%m-%d %H:%M:%S}", text)


def _is_said(value: str | float | bool, reason: str) -> bool:  # noqa: FBT001 - JSON's values
    """Whether the reason says it already: in these words, or as a point in time, in whole seconds."""
    if not isinstance(value, str):
        return False
    return value in reason or (_is_moment(value) and value[:19] in reason)


def _is_moment(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return "T" in value


def _entries(told: Sequence[tuple[datetime, Decision]]) -> list[Entry]:
    entries: list[Entry] = []
    for at, decision in told:
        entry = Entry(at, TITLES[decision.kind], _in_zone(decision.reason, at.tzinfo), facts_of(decision))
        before = entries[-1] if entries else None
        if before is not None and (before.title, before.reason) == (entry.title, entry.reason):
            entries[-1] = replace(before, facts=entry.facts, times=before.times + 1, last_at=at)
        else:
            entries.append(entry)
    return entries


def _fact(name: str, value: str | float | bool) -> str:  # noqa: FBT001 - JSON's values
    if isinstance(value, bool):
        return name.replace("_", " ")
    if name.endswith("_id"):
        return str(value)
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix).replace('_', ' ')} {value}{unit}"
    return f"{name.replace('_', ' ')} {value}"
