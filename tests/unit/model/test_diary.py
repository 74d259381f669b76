"""A decision log as a diary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from cnap_runner.model.diary import TITLES, diary, facts_of
from cnap_runner.model.journal import Decision, DecisionKind, Evidence

MORNING = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def decided(
    kind: DecisionKind, reason: str = "so it was", *, after: timedelta = timedelta(), evidence: Evidence | None = None
) -> Decision:
    return Decision("alice", kind, reason, MORNING + after, evidence or {}, "m-1")


def test_every_kind_has_a_title() -> None:
    """Whatever is decided can be told."""
    assert set(TITLES) == set(DecisionKind)


def test_days_are_those_of_the_reader() -> None:
    """What happened at 23:30 UTC was on the next day for whoever lives an hour east."""
    late = decided(DecisionKind.STOPPED, after=timedelta(hours=15, minutes=30))
    assert [day.date.day for day in diary([decided(DecisionKind.STARTED), late], zone=UTC)] == [21]
    assert [day.date.day for day in diary([late], zone=timezone(timedelta(hours=1)))] == [22]


def test_what_happens_again_and_again_is_told_once() -> None:
    """The same thing for the same reason in a row is one entry, with how often and when last; another thing between makes two."""
    failures = [
        decided(DecisionKind.START_FAILED, "no image", after=timedelta(minutes=n), evidence={"generation": n})
        for n in range(3)
    ]
    stop, again = decided(DecisionKind.STOPPED), decided(DecisionKind.START_FAILED, "no image")
    (day,) = diary([*failures, stop, again], zone=UTC)
    assert [(entry.title, entry.times) for entry in day.entries] == [
        ("Could not start", 3),
        ("Stopped", 1),
        ("Could not start", 1),
    ]
    assert day.entries[0].last_at == MORNING + timedelta(minutes=2)
    assert day.entries[0].facts == ("generation 2",)


def test_evidence_is_put_into_words() -> None:
    """Figures with their units; what is not known or not so, names an instance or was said already is left out."""
    evidence: Evidence = {
        "instance_id": "i-1",
        "generation": 2,
        "took_seconds": 3.9,
        "memory_limit_mb": 512,
        "error": "gone",
        "exit_code": None,
        "with_files": False,
    }
    assert facts_of(decided(DecisionKind.STARTED, "it is gone since 2 h", evidence=evidence)) == (
        "generation 2",
        "took 3.9 s",
        "memory limit 512 MiB",
    )


def test_points_in_time_are_the_diarys_own_and_told_once() -> None:
    """The end of a hold is told in the zone of its day, not in UTC, and not a second time as evidence."""
    until = "2026-03-01T12:30:00.250000+00:00"
    held = decided(DecisionKind.HELD, "bob holds it until 2026-03-01T12:30:00+00:00", evidence={"until": until})
    (entry,) = diary([held], zone=timezone(timedelta(hours=2)))[0].entries
    assert (entry.reason, entry.facts) == ("bob holds it until 2026-03-01 14:30:00", ())
