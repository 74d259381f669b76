"""An agent's folders under the data folder. Nothing in them is ever removed but by `delete`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnap_runner.errors import InsufficientResources, RunnerError
from cnap_runner.model.instance import Volume, VolumeRole
from cnap_runner.runner.workspaces.access import Owner, give_all, give_top, host_user, share
from cnap_runner.runner.workspaces.confined import opened_folder
from cnap_runner.runner.workspaces.removal import remove

PRIVATE = 0o700
SHARED = 0o755

_REMOVED = "~removed"
ASIDE = f".*{_REMOVED}"
"""Pattern of the names of what was set aside."""


@dataclass(frozen=True, slots=True)
class AgentFolders:
    """Where an agent's files lie on the manager's side."""

    data_dir: Path
    agent_id: str

    @property
    def workspace(self) -> Path:
        """The agent's project files, nothing of ours."""
        return self.data_dir / "workspace" / self.agent_id

    @property
    def _own(self) -> Path:
        return self.data_dir / "agents" / self.agent_id

    @property
    def state(self) -> Path:
        """OpenCode's data: sessions."""
        return self._own / "state"

    @property
    def saved_state(self) -> Path:
        """A copy of the sessions, while a newer OpenCode starts for the first time."""
        return self._own / "state.saved"

    @property
    def home(self) -> Path:
        """The agent's home: caches and tools it installs."""
        return self._own / "home"

    @property
    def settings(self) -> Path:
        """Rendered settings, read-only inside."""
        return self._own / "settings"

    @property
    def logs(self) -> Path:
        """What its server wrote, as it was collected."""
        return self._own / "logs"

    @property
    def seeded_mark(self) -> Path:
        """There once the workspace was seeded: one that was emptied since is not seeded again."""
        return self._own / "seeded"

    @property
    def mounted_mark(self) -> Path:
        """Which instance has which folder as its workspace, for managers that did not start it."""
        return self._own / "mounted"

    def draft(self, name: str) -> Path:
        """Give a place beside the workspace, on the same disk, where a seed of this name is made ready. No agent's id begins with a dot."""
        return self.data_dir / "workspace" / f".{self.agent_id}~{name}"

    def drafts(self) -> Iterator[Path]:
        """Find what is left of seeds and imports that were not finished."""
        for folder in ("workspace", "agents"):
            with contextlib.suppress(FileNotFoundError):
                yield from (self.data_dir / folder).glob(f".{self.agent_id}~*")

    def volumes(self) -> tuple[Volume, ...]:
        """Tell an instance what to mount."""
        return (
            Volume(role=VolumeRole.WORKSPACE, source=self.workspace),
            Volume(role=VolumeRole.STATE, source=self.state),
            Volume(role=VolumeRole.HOME, source=self.home),
            Volume(role=VolumeRole.SETTINGS, source=self.settings, is_read_only=True),
        )

    def make(self, owner: Owner | None) -> None:
        """Create what is missing and give it to the instance's user. Idempotent; contents are never changed.

        Raises `InsufficientResources` on a full disk, `RunnerError` where the folder cannot be written.
        """
        try:
            for parent in (self.data_dir / "agents", self._own):
                _make_folder(parent, PRIVATE, owner=None)
            _make_folder(self.settings, SHARED, owner=None)
            _make_folder(self.data_dir / "workspace", SHARED, owner=None)
            is_handed_over = _make_folder(self.workspace, SHARED, owner=owner)
            _make_folder(self.state, PRIVATE, owner=owner)
            _make_folder(self.home, PRIVATE, owner=owner)
            if owner is not None:
                self._share(owner, is_handed_over=is_handed_over)
        except OSError as error:
            raise folder_error(self.data_dir, error) from error

    def sharers(self, owner: Owner) -> set[int]:
        """Tell who besides root works in the workspace: the agent, and the host's user."""
        return {owner[0], host_user(self.data_dir)} - {0}

    def _share(self, owner: Owner, *, is_handed_over: bool) -> None:
        """Let all work in the workspace who should. What was put into it before the agent had it becomes the agent's, whole."""
        if self.workspace.is_symlink():
            return  # the operator put it elsewhere, with rights of their own choice
        if is_handed_over:
            give_all(self.workspace, owner, self.sharers(owner))
            return
        with opened_folder(self.workspace) as top:
            share(top, self.sharers(owner))
        give_top(self.workspace, owner)

    def delete_workspace(self) -> None:
        """Remove the workspace alone, and that it was seeded. Raises as `remove`."""
        for path in (self.workspace, *self.drafts(), self.seeded_mark):
            remove(path)

    def set_aside(self) -> None:
        """Take the names from all that is the agent's; `delete_aside` removes it. A later agent of this id begins with nothing. Raises as `make`."""
        for path in (self.workspace, self._own):
            try:
                path.rename(path.with_name(f".{self.agent_id}{_REMOVED}"))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise folder_error(path.parent, error) from error

    def delete_aside(self) -> None:
        """Remove for ever what was set aside, and drafts. Raises as `remove`."""
        for path in self.drafts():
            remove(path)

    def delete(self) -> None:
        """Remove workspace, sessions, home and settings for ever. Gone already: nothing happens. Raises as `remove`."""
        self.delete_aside()
        for path in (self.workspace, self._own):
            remove(path)


def _make_folder(path: Path, mode: int, *, owner: Owner | None) -> bool:
    """Make a folder where there is none, and give it to its owner; tell whether it was another's."""
    try:
        path.mkdir(mode=mode, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
    status = path.lstat()
    if owner is not None and (status.st_uid, status.st_gid) != owner:
        os.chown(path, *owner, follow_symlinks=False)
        return True
    return False


def folder_error(folder: Path, error: OSError) -> RunnerError:
    """Translate what went wrong while writing below a folder."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return InsufficientResources(f"No space is left for {folder}.")
    return RunnerError(
        f"Cannot write to {folder}: {error.strerror or error}.",
        hint="Give this user the right to, or set CNAP_RUNNER_DATA_DIR to another folder.",
    )
