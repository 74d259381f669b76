"""What a turn has to know of an agent's folders before it begins."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from cnap_runner.runner.provisioning.settings_folder import written_at
from cnap_runner.runner.workspaces.folders import AgentFolders


@dataclass(frozen=True, slots=True)
class OnDisk:
    """An agent's folders, as they are now."""

    settings_written_at: int | None
    """As `written_at` tells."""
    workspace: tuple[int, int] | None
    """Which folder the workspace is (device and inode); None: it is gone."""

    @classmethod
    def of(cls, folders: AgentFolders) -> OnDisk:
        """Look at them. Blocks for microseconds."""
        return cls(written_at(folders.settings), _identity(folders))

    @classmethod
    def at_start(cls, folders: AgentFolders, instance_id: str) -> OnDisk:
        """Look at them as a new instance has them, and write down which workspace that is. Blocks for microseconds."""
        seen = cls.of(folders)
        with contextlib.suppress(OSError):  # then nobody else knows, as of an instance of an earlier version
            folders.mounted_mark.write_text(json.dumps([instance_id, seen.workspace]), encoding="utf-8")
        return seen

    def has_replaced(self, mounted: tuple[int, int] | None) -> bool:
        """Whether an instance that has a folder mounted works in one that nobody can reach any more; None: not known which it has.

        A container keeps a folder that was removed or renamed on the host, and writes into nowhere.
        """
        return self.workspace is None or mounted not in {None, self.workspace}


def workspace_of(folders: AgentFolders, instance_id: str) -> tuple[int, int] | None:
    """Tell which workspace a present instance was started with, whoever started it; None: not known. Blocks for microseconds."""
    try:
        of_instance, (device, inode) = json.loads(folders.mounted_mark.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return (device, inode) if of_instance == instance_id else None


def _identity(folders: AgentFolders) -> tuple[int, int] | None:
    try:
        status = folders.workspace.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
