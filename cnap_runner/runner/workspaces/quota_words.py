"""What people are told about the limits of the disk."""

from __future__ import annotations

from pathlib import Path

from cnap_runner.model.decisions.disk import MIB, DiskFinding, DiskLimits
from cnap_runner.runner.workspaces.disk import DiskUse
from cnap_runner.runner.workspaces.folders import AgentFolders


def in_words(size: int) -> str:
    """Write a number of bytes for people: ``12 MiB``, ``1.5 GiB``."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / MIB:.0f} MiB"


def full_disk(data_dir: Path, *, free: int, reserve: int) -> str:
    """Say that the disk itself has too little left."""
    return f"Only {in_words(free)} are left on the disk of {data_dir}, and agents must leave {in_words(reserve)}."


def over_limit(agent_id: str, use: DiskUse, limits: DiskLimits, finding: DiskFinding) -> str:
    """Say what an agent uses, and more than what that is."""
    parts = f"workspace {in_words(use.workspace)}, sessions {in_words(use.state)}, home {in_words(use.home)}"
    limit = f"its quota of {in_words(limits.quota)}"
    if finding is DiskFinding.OVER_CEILING:
        limit = f"its hard ceiling of {in_words(limits.ceiling)} (its quota is {in_words(limits.quota)})"
    return f"Agent {agent_id} uses {in_words(use.total)} ({parts}), more than {limit}."


def advice(folders: AgentFolders, finding: DiskFinding) -> str:
    """Say what can be done about it."""
    if finding is DiskFinding.DISK_NEARLY_FULL:
        return "Make room on it, or lower CNAP_RUNNER_HOST_RESERVE_MB."
    return f"Remove files from {folders.workspace}, or raise the agent's resources.disk_mb or CNAP_RUNNER_DISK_MB."
