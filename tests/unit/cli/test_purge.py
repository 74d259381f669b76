"""The end of an install."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
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


def damage_database(data_dir: Path) -> None:
    """Write over the file's first pages."""
    (data_dir / "runner.db").write_bytes(b"no database" * 1000)


def empty_database(data_dir: Path) -> None:
    """Leave a file without content, as a full disk does."""
    (data_dir / "runner.db").write_bytes(b"")


def lose_database(data_dir: Path) -> None:
    """Remove the file."""
    (data_dir / "runner.db").unlink()


def damage_key(data_dir: Path) -> None:
    """Cut the key short."""
    (data_dir / "install.key").write_bytes(b"short")


DAMAGES = (damage_database, empty_database, lose_database, damage_key)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_install_can_be_purged(cli: House, damage: Callable[[Path], None]) -> None:
    """Its instances are found by the id that is kept besides the database; nothing of it stays."""
    cli("run", "alice", "hi", "--model", "fake/demo")
    install_id = (cli.data_dir / "install.id").read_text().strip()
    assert len(anyio.run(cli.backend.list_instances, install_id)) == 1
    damage(cli.data_dir)
    done = cli("purge", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "Everything is removed without it." in done.stderr
    assert anyio.run(cli.backend.list_instances, install_id) == []
    assert not cli.data_dir.exists()


@pytest.mark.parametrize("damage", [empty_database, lose_database])
def test_a_lost_database_does_not_become_a_new_install(cli: House, damage: Callable[[Path], None]) -> None:
    """What the folder's install made would be nobody's; it is refused, and what to do is said."""
    cli("run", "alice", "hi", "--model", "fake/demo")
    damage(cli.data_dir)
    for _ in range(2):
        done = cli("run", "alice", "hi", "--model", "fake/demo")
        assert (done.exit_code, "is not the one this folder had" in done.stderr) == (1, True)
        assert "cnap-runner purge" in done.stderr


def test_a_damaged_install_without_its_id_is_left_alone(cli: House) -> None:
    """Without the id its instances cannot be found, and its files are what could still tell of them."""
    cli("run", "alice", "hi", "--model", "fake/demo")
    damage_database(cli.data_dir)
    (cli.data_dir / "install.id").unlink()
    assert cli("purge", "--yes").exit_code == 1
    assert (cli.data_dir / "runner.db").exists()
