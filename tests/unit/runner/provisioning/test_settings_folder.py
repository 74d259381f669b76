"""The settings folder of an agent."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cnap_runner.errors import RunnerError
from cnap_runner.runner.provisioning.settings_folder import write_settings

FIRST = {"opencode/opencode.json": "{}", "opencode/agents/a.md": "a", "gitconfig": "g"}


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_opencodes_folder_holds_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    """What is no longer wanted is gone; a file beside it stays until it is replaced."""
    write_settings(tmp_path, FIRST)
    assert files_in(tmp_path) == FIRST
    write_settings(tmp_path, {"opencode/opencode.json": "{1}"})
    assert files_in(tmp_path) == {"opencode/opencode.json": "{1}", "gitconfig": "g"}


def test_everyone_inside_can_read_it(tmp_path: Path) -> None:
    """The agent's user is not the manager's: modes do not depend on its umask."""
    write_settings(tmp_path, FIRST)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {mode for path, mode in modes.items() if (tmp_path / path).is_dir()} == {0o755}
    assert {mode for path, mode in modes.items() if (tmp_path / path).is_file()} == {0o644}


def test_what_an_interrupted_write_left_does_no_harm(tmp_path: Path) -> None:
    """A manager killed between two steps: the next write is whole."""
    write_settings(tmp_path, FIRST)
    (tmp_path / "opencode").rename(tmp_path / ".opencode.old")
    (tmp_path / ".opencode.new" / "stale").mkdir(parents=True)
    write_settings(tmp_path, FIRST)
    assert files_in(tmp_path) == FIRST


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """It names the folder."""
    with pytest.raises(RunnerError, match="nowhere"):
        write_settings(tmp_path / "nowhere", FIRST)
