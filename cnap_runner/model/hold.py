"""Hold: somebody's wish that an agent's instance stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """While it lasts, the agent's instance is neither frozen nor stopped for doing nothing, and yields its place to nobody."""

    agent_id: str
    owner: str
    """Whose it is; each owner has one per agent."""
    until: datetime
