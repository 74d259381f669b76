"""RunnerRecord and RunnerStatus: what the store knows of an agent's runner, and what may follow what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from cnap_runner.errors import InvalidTransition
from cnap_runner.model.instance import InstanceRef, Limits


class RunnerStatus(StrEnum):
    """Where a runner stands."""

    PENDING = "pending"
    """Known; has never had an instance."""
    STARTING = "starting"
    READY = "ready"
    """Its server answers with data; no turn is under way."""
    RUNNING = "running"
    """In a turn."""
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    """Its instance ended by itself or would not start; `RunnerRecord.reason` says why. The next run starts a new one."""


_S = RunnerStatus

TRANSITIONS: MappingProxyType[RunnerStatus, frozenset[RunnerStatus]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.STARTING, _S.FAILED}),
        _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.FAILED}),
        _S.READY: frozenset({_S.RUNNING, _S.PAUSED, _S.STOPPING, _S.FAILED}),
        _S.RUNNING: frozenset({_S.READY, _S.STOPPING, _S.FAILED}),
        _S.PAUSED: frozenset({_S.READY, _S.STOPPING, _S.FAILED}),
        _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
        _S.STOPPED: frozenset({_S.STARTING, _S.FAILED}),
        _S.FAILED: frozenset({_S.STARTING, _S.STOPPING, _S.STOPPED}),
    }
)
"""What may follow what. A status may always follow itself."""

LIVE_STATUSES = frozenset({_S.STARTING, _S.READY, _S.RUNNING, _S.PAUSED, _S.STOPPING})
"""Statuses in which a runner takes one of the places of ``max_containers``."""


def check_transition(present: RunnerStatus, following: RunnerStatus) -> None:
    """Raise `InvalidTransition` unless ``following`` may come after ``present``."""
    if following is not present and following not in TRANSITIONS[present]:
        allowed = ", ".join(sorted(TRANSITIONS[present]))
        raise InvalidTransition(f"A runner that is {present} cannot become {following}; it can become {allowed}.")


@dataclass(frozen=True, slots=True)
class RunnerRecord:
    """What the store knows of an agent's runner. Immutable; each change is a method named after what happened."""

    agent_id: str
    status: RunnerStatus = RunnerStatus.PENDING
    reason: str | None = None
    """Why it is in this status, in plain words."""
    generation: int = 0
    instance_id: str | None = None
    handle: str | None = None
    """The backend's name for the instance; None until it is created."""
    spec_hash: str | None = None
    """Of what only a new instance can change."""
    settings_hash: str | None = None
    """Of the settings that its server has taken up; None: not known, or a change is under way."""
    limits: Limits | None = None
    """Those that the instance has; None: not known."""
    endpoint: str | None = None
    started_at: datetime | None = None
    changed_at: datetime | None = None
    due_at: datetime | None = None
    """When the keeper next has something to decide about it; None: nothing, for as long as it is in this status."""
    opencode_version: str | None = None
    """The version of OpenCode that served last from the agent's state; None: not known."""

    @property
    def ref(self) -> InstanceRef | None:
        """The present instance, where one was created."""
        if self.instance_id is None or self.handle is None:
            return None
        return InstanceRef(instance_id=self.instance_id, handle=self.handle)

    def _to(self, status: RunnerStatus, at: datetime, reason: str | None) -> Self:
        check_transition(self.status, status)
        return replace(self, status=status, changed_at=at, reason=reason, due_at=None)

    def start_intended(self, *, instance_id: str, spec_hash: str, at: datetime) -> Self:
        """A new instance is about to be created under this id; written before the backend is asked."""
        return replace(
            self._to(RunnerStatus.STARTING, at, None),
            generation=self.generation + 1,
            instance_id=instance_id,
            spec_hash=spec_hash,
            settings_hash=None,
            limits=None,
            handle=None,
            endpoint=None,
            started_at=None,
        )

    def restart_intended(self, *, at: datetime) -> Self:
        """The present instance, stopped, is about to be started again."""
        return replace(self._to(RunnerStatus.STARTING, at, None), endpoint=None)

    def created(self, ref: InstanceRef) -> Self:
        """The backend created the instance."""
        return replace(self, handle=ref.handle)

    def became_ready(self, *, endpoint: str, at: datetime) -> Self:
        """Its server answered with data."""
        return replace(self._to(RunnerStatus.READY, at, None), endpoint=endpoint, started_at=at)

    def settled(self, *, settings_hash: str | None, limits: Limits | None) -> Self:
        """The instance has these settings and limits; None: it is not known which."""
        return replace(self, settings_hash=settings_hash, limits=limits)

    def due(self, at: datetime | None) -> Self:
        """The keeper has something to decide about it at this time."""
        return replace(self, due_at=at)

    def paused(self, *, at: datetime) -> Self:
        """The instance is frozen, or about to be."""
        return self._to(RunnerStatus.PAUSED, at, None)

    def woken(self, *, at: datetime) -> Self:
        """The frozen instance was thawed."""
        return self._to(RunnerStatus.READY, at, None)

    def turn_began(self, *, at: datetime) -> Self:
        """A turn is under way."""
        return self._to(RunnerStatus.RUNNING, at, None)

    def turn_ended(self, *, at: datetime) -> Self:
        """The turn is over, the instance goes on."""
        return self._to(RunnerStatus.READY, at, None)

    def stop_intended(self, *, reason: str, at: datetime) -> Self:
        """The instance is about to be stopped."""
        return self._to(RunnerStatus.STOPPING, at, reason)

    def stopped(self, *, reason: str | None, at: datetime) -> Self:
        """The instance is stopped; its session and workspace stay."""
        return replace(self._to(RunnerStatus.STOPPED, at, reason), endpoint=None)

    def failed(self, *, reason: str, at: datetime) -> Self:
        """The instance ended by itself or would not start."""
        return replace(self._to(RunnerStatus.FAILED, at, reason), endpoint=None)

    def removed(self) -> Self:
        """The instance's remains are gone from the backend."""
        gone = replace(self, instance_id=None, handle=None, endpoint=None, spec_hash=None)
        return gone.settled(settings_hash=None, limits=None)
