"""An agent's folders under the data folder. Nothing in them is ever removed but by `delete`."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cnap_runner.errors import InsufficientResources, RunnerError
from cnap_runner.model.instance import Volume, VolumeRole

PRIVATE = 0o700
SHARED = 0o755


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
    def home(self) -> Path:
        """The agent's home: caches and tools it installs."""
        return self._own / "home"

    @property
    def settings(self) -> Path:
        """Rendered settings, read-only inside."""
        return self._own / "settings"

    def volumes(self) -> tuple[Volume, ...]:
        """Tell an instance what to mount."""
        return (
            Volume(role=VolumeRole.WORKSPACE, source=self.workspace),
            Volume(role=VolumeRole.STATE, source=self.state),
            Volume(role=VolumeRole.HOME, source=self.home),
            Volume(role=VolumeRole.SETTINGS, source=self.settings, is_read_only=True),
        )

    def make(self, owner: tuple[int, int] | None) -> None:
        """Create what is missing and give it to the instance's user. Idempotent; contents are never changed.

        Raises `InsufficientResources` on a full disk, `RunnerError` where the folder cannot be written.
        """
        try:
            for parent in (self.data_dir / "agents", self._own):
                _make_folder(parent, PRIVATE, owner=None)
            _make_folder(self.settings, SHARED, owner=None)
            _make_folder(self.data_dir / "workspace", SHARED, owner=None)
            _make_folder(self.workspace, SHARED, owner=owner)
            _make_folder(self.state, PRIVATE, owner=owner)
            _make_folder(self.home, PRIVATE, owner=owner)
        except OSError as error:
            raise folder_error(self.data_dir, error) from error

    def delete(self) -> None:
        """Remove workspace, sessions, home and settings for ever. Gone already: nothing happens. Links are never followed."""
        for folder in (self.workspace, self._own):
            try:
                if folder.is_symlink():
                    folder.unlink()
                else:
                    shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise RunnerError(
                    f"Some files of agent {self.agent_id} could not be removed: {error.strerror}.",
                    hint=f"Remove {folder} by hand, as their owner or as root.",
                ) from error


def _make_folder(path: Path, mode: int, *, owner: tuple[int, int] | None) -> None:
    try:
        path.mkdir(mode=mode, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
    status = path.lstat()
    if owner is not None and (status.st_uid, status.st_gid) != owner:
        os.chown(path, *owner, follow_symlinks=False)


def folder_error(folder: Path, error: OSError) -> RunnerError:
    """Translate what went wrong while writing below a folder."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return InsufficientResources(f"No space is left for {folder}.")
    return RunnerError(
        f"Cannot write to {folder}: {error.strerror or error}.",
        hint="Give this user the right to, or set CNAP_RUNNER_DATA_DIR to another folder.",
    )
