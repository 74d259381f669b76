"""The limits of one agent's instance: its own, else those of the settings."""

from __future__ import annotations

from datetime import datetime

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.decisions.life import LifeLimits
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install


def limits_of(install: Install, spec: AgentSpec) -> LifeLimits:
    """Work out an agent's limits. A backend that cannot freeze leaves instances as they are until they are stopped."""
    settings, life = install.settings, spec.life
    pause_after = life.pause_after if life.pause_after is not None else settings.pause_after
    return LifeLimits(
        pause_after=pause_after if install.backend.capabilities.can_pause else None,
        idle_timeout=life.idle_timeout if life.idle_timeout is not None else settings.idle_timeout,
        max_age=life.max_age if life.max_age is not None else settings.max_age,
        memory_mark_percent=settings.memory_mark_percent,
    )


def idle_from(record: RunnerRecord, limits: LifeLimits, at: datetime) -> RunnerRecord:
    """Say in the record of an instance that has nothing to do from now on when its keeper has to look at it."""
    return record.due(limits.first_due(at, started_at=record.started_at))
