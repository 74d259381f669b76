"""The end of an install."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from cnap_runner.store.presence import ManagerLock

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House


def test_purge_removes_ours_and_leaves_the_users(cli: House) -> None:
    """Database, key, agents and workspaces go; what the user put there stays."""
    cli("run", "alice", "hi", "--model", "fake/demo")
    own = cli.data_dir / "configs" / "opencode"
    own.mkdir(parents=True)
    assert cli("purge").exit_code == 2
    assert cli("purge", "--yes").exit_code == 0
    assert list(cli.data_dir.iterdir()) == [cli.data_dir / "configs"]
    own.rmdir()
    own.parent.rmdir()
    cli("run", "alice", "hi", "--model", "fake/demo")
    cli("purge", "--yes")
    assert not cli.data_dir.exists()


def test_purge_waits_for_nobody_and_pulls_nothing_away(cli: House) -> None:
    """While another process works on the install it is refused, and nothing is removed."""
    cli("run", "alice", "hi", "--model", "fake/demo")
    lock = ManagerLock(cli.data_dir, "m-other")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(lock):
        assert cli("purge", "--yes").exit_code == 5
    assert Path(cli.data_dir, "runner.db").exists()
