"""What is told of an agent's files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkspaceInfo:
    """One agent's files, of a known or a deleted agent. Sizes are allocated bytes; a file with several names counts once."""

    agent_id: str
    path: Path
    """The workspace, on the manager's side."""
    workspace_bytes: int
    state_bytes: int
    """Sessions."""
    home_bytes: int
    """Caches and tools."""
    is_complete: bool
    """False where something could not be read or there was too much of it: it is more, then."""
    age: timedelta
    """Since the agent was first made; of one that the store has forgotten, since its workspace last changed."""
    quota_bytes: int
    """Above it no turn begins."""
    is_deleted: bool
    deleted_at: datetime | None = None
    """None for a known agent, and for one whose files are all that is left."""

    @property
    def total_bytes(self) -> int:
        """All of it together."""
        return self.workspace_bytes + self.state_bytes + self.home_bytes


@dataclass(frozen=True, slots=True)
class Mended:
    """What was given to an agent in its workspace."""

    count: int = 0
    left: int = 0
    """Files of others that have more than one name: another name may lie outside of the workspace, so they are left alone."""
