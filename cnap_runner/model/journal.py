"""Decision: one entry of an agent's decision log, which tells why things were done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

Evidence = Mapping[str, str | int | float | bool | None]


class DecisionKind(StrEnum):
    """What was done, or refused. Each is counted over the install's life under this name."""

    CREATED = "created"
    CHANGED = "changed"
    STARTED = "started"
    START_FAILED = "start_failed"
    ADOPTED = "adopted"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPED = "stopped"
    """By request, or because its manager ended."""
    STOPPED_IDLE = "stopped_idle"
    YIELDED = "yielded"
    """Stopped while idle, to give its place to another agent."""
    RECYCLED_AGE = "recycled_age"
    RECYCLED_MEMORY = "recycled_memory"
    RECYCLED_CHANGE = "recycled_change"
    ABORTED_LIMIT = "aborted_limit"
    """A turn that reached its time limit."""
    ABORTED_QUOTA = "aborted_quota"
    DIED = "died"
    OOM_KILLED = "oom_killed"
    RETRIED = "retried"
    RECOVERED = "recovered"
    GAVE_UP = "gave_up"
    """No more starts until somebody asks: retries used up, or a crash loop."""
    SETTLED = "settled"
    """A run that a dead manager left was brought to its true end."""
    HELD = "held"
    RELEASED = "released"
    REFUSED = "refused"
    ANSWERED = "answered"
    """A permission or question, by policy, by deadline or by somebody."""
    ORPHAN_REMOVED = "orphan_removed"
    UPGRADED = "upgraded"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry."""

    agent_id: str
    kind: DecisionKind
    reason: str
    """In plain words, redacted."""
    at: datetime
    evidence: Evidence = field(default_factory=lambda: MappingProxyType({}))
    """What it was decided by: figures, ids. JSON values only."""
    manager_id: str = ""
