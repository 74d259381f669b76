"""An agent's folders."""

import os
from pathlib import Path

import pytest

from cnap_runner.errors import RunnerError
from cnap_runner.runner.workspaces.folders import AgentFolders


@pytest.fixture
def folders(tmp_path: Path) -> AgentFolders:
    return AgentFolders(tmp_path / "data", "alice")


def test_making_them_twice_changes_nothing(folders: AgentFolders) -> None:
    """Contents stay as they are."""
    folders.make(None)
    (folders.workspace / "a.txt").write_text("kept")
    folders.make(None)
    assert (folders.workspace / "a.txt").read_text() == "kept"


def test_sessions_and_home_are_private(folders: AgentFolders) -> None:
    """Other users of the machine cannot read them."""
    folders.make(None)
    assert folders.state.stat().st_mode & 0o077 == 0
    assert folders.home.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_they_belong_to_the_instances_user(folders: AgentFolders) -> None:
    """What the agent writes to is its own; the settings, which it only reads, are not."""
    folders.make((10000, 10000))
    owned = {folder: folder.stat().st_uid for folder in (folders.workspace, folders.state, folders.home)}
    assert set(owned.values()) == {10000}
    assert folders.settings.stat().st_uid == 0


def test_deleting_follows_no_link(folders: AgentFolders, tmp_path: Path) -> None:
    """A link inside a workspace, or in its place, never leads the manager out of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folders.make(None)
    (folders.workspace / "link").symlink_to(outside)
    folders.delete()
    assert not folders.workspace.exists()
    folders.workspace.parent.mkdir(parents=True, exist_ok=True)
    folders.workspace.symlink_to(outside)
    folders.delete()
    assert (outside / "precious").exists()
    assert not folders.workspace.is_symlink()


def test_deleting_takes_what_an_import_that_was_killed_left(folders: AgentFolders) -> None:
    """Drafts lie beside the workspace and beside the agent's own folder; those of others stay."""
    folders.make(None)
    left = [folders.data_dir / folder / ".alice~import" for folder in ("workspace", "agents")]
    other = folders.data_dir / "agents" / ".alice-2~import"
    for path in (*left, other):
        path.mkdir()
    folders.delete()
    assert [path.exists() for path in (*left, other)] == [False, False, True]


def test_deleting_twice_is_no_error(folders: AgentFolders) -> None:
    """What is gone is gone."""
    folders.make(None)
    folders.delete()
    folders.delete()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """A file in the place of the data folder, as an example."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(RunnerError, match="CNAP_RUNNER_DATA_DIR"):
        AgentFolders(tmp_path / "data", "alice").make(None)
