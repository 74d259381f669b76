"""OpenCode's own log files."""

from __future__ import annotations

import os
from pathlib import Path

from cnap_runner.runner.collectors.server_log import cut_server_log


def log_folder(state: Path) -> Path:
    folder = state / "opencode" / "log"
    folder.mkdir(parents=True)
    return folder


def test_f21_the_servers_own_log_does_not_grow_without_end(tmp_path: Path) -> None:
    """A large file is emptied under the server's hands, which goes on at its beginning; a small one stays."""
    folder = log_folder(tmp_path)
    (folder / "small.log").write_text("small")
    with (folder / "opencode.log").open("ab", buffering=0) as server:
        server.write(b"x" * 2000)
        assert cut_server_log(tmp_path, max_bytes=1000) == 2000
        server.write(b"goes on\n")
    assert (folder / "opencode.log").read_text() == "goes on\n"
    assert (folder / "small.log").read_text() == "small"


def test_what_an_agent_puts_there_is_not_followed(tmp_path: Path) -> None:
    """A link to a file of the host, a pipe that nobody reads and a folder are left alone, and nothing waits."""
    precious = tmp_path / "precious"
    precious.write_text("y" * 2000)
    folder = log_folder(tmp_path / "state")
    (folder / "opencode.log").symlink_to(precious)
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    assert cut_server_log(tmp_path / "state", max_bytes=10) == 0
    assert precious.stat().st_size == 2000


def test_a_linked_folder_is_not_entered(tmp_path: Path) -> None:
    """However an agent leads there."""
    elsewhere = log_folder(tmp_path / "elsewhere")
    (elsewhere / "opencode.log").write_text("y" * 2000)
    state = tmp_path / "state"
    state.mkdir()
    (state / "opencode").symlink_to(tmp_path / "elsewhere" / "opencode")
    assert cut_server_log(state, max_bytes=10) == 0
    assert cut_server_log(tmp_path / "none", max_bytes=10) == 0
