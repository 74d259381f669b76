"""Exposure: where an install's figures are shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a manager was asked to show."""

    registry: CollectorRegistry | None
    """Its owner's; None: one is made, with the figures of this process in it."""
    port: int | None
    """At which it is served on loopback; 0: any free one; None: whoever has the registry serves it."""
    right_to_serve: Callable[[], AbstractAsyncContextManager[object]]
    """Held by the one manager that serves the install's metrics. Raises `StoreBusy` at once while another one does."""
    must_serve: bool = True
    """Whether the manager refuses to open where another program has the port; else it tries again and again, and says so in its log."""
