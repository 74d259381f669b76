"""What a backend can do, and what it finds out about its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do. What it cannot is refused where a spec needs it, and said by ``doctor``."""

    has_images: bool
    isolates_files: bool
    isolates_network: bool
    isolates_processes: bool
    limits_memory: bool
    limits_cpu: bool
    limits_pids: bool
    can_pause: bool
    closes_network: bool
    """Has `Network.CLOSED`."""
    has_runtimes: bool
    """Knows OCI runtimes by name."""
    grants_hardware: bool
    """Applies `Hardware`."""
    survives_manager: bool
    """Instances go on when the manager ends."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What ``check`` found out about the engine."""

    name: str
    version: str
    details: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """What does not work as it should and how to mend it, one sentence each."""
