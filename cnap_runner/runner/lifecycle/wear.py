"""Instances that are worn: too old, or too large. Those at work are replaced at the beginning of their next turn, by who drives it."""

from __future__ import annotations

from dataclasses import dataclass

from cnap_runner.errors import InstanceExited, InstanceNotFound
from cnap_runner.model.decisions.life import LifeLimits, is_over_mark
from cnap_runner.model.instance import InstanceRef
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Wear:
    """Why an instance is to be replaced."""

    kind: DecisionKind
    reason: str
    evidence: Evidence


def age_of(record: RunnerRecord, limits: LifeLimits, install: Install) -> Wear | None:
    """Tell whether an instance is older than it may be. Asks nobody."""
    if record.started_at is None or limits.max_age is None:
        return None
    age = install.now() - record.started_at
    if age < limits.max_age:
        return None
    hours = age.total_seconds() / 3600
    limit = limits.max_age.total_seconds() / 3600
    evidence = {"age_seconds": round(age.total_seconds()), "instance": record.instance_id}
    reason = f"its container was {hours:.3g} h old, and {limit:.3g} h are allowed"
    return Wear(DecisionKind.RECYCLED_AGE, reason, evidence)


async def size_of(ref: InstanceRef, limits: LifeLimits, install: Install) -> Wear | None:
    """Measure whether an instance uses more memory than its mark. One that ended meanwhile is not worn; raises the backend's errors."""
    if limits.memory_mark_percent is None:
        return None
    try:
        usage = await install.backend.usage(ref)
    except (InstanceExited, InstanceNotFound):
        return None
    used, limit = usage.memory_bytes, usage.memory_limit_bytes
    if limit is None or not is_over_mark(used, limit, limits.memory_mark_percent):
        return None
    evidence: Evidence = {
        "memory_mib": used // MIB,
        "limit_mib": limit // MIB,
        "mark_percent": limits.memory_mark_percent,
        "instance": ref.instance_id,
    }
    reason = f"it used {used // MIB} of {limit // MIB} MiB of memory, over the mark of {limits.memory_mark_percent} %"
    return Wear(DecisionKind.RECYCLED_MEMORY, reason, evidence)
