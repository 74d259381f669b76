"""Managers' lives and the install's lock."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from cnap_runner.errors import StoreBusy, StoreError
from cnap_runner.store.presence import InstallLock, ManagerLock, is_alive, liveness, remove_dead_files

SHORT = timedelta(milliseconds=30)


async def test_a_manager_lives_while_it_holds_its_lock(tmp_path: Path) -> None:
    """is_alive is true from taking to giving back, and false for one that never was."""
    assert not is_alive(tmp_path, "m1")
    async with ManagerLock(tmp_path, "m1") as lock:
        assert lock.is_held
        assert is_alive(tmp_path, "m1")
        assert is_alive(tmp_path, "m1"), "asking must not take the lock away"
        assert not liveness(tmp_path)("m2")
    assert not is_alive(tmp_path, "m1")
    assert list((tmp_path / "managers").iterdir()) == []


async def test_two_managers_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    """A lock belongs to its open file: even within one process it is had once."""
    async with InstallLock(tmp_path):
        with pytest.raises(StoreBusy):
            async with InstallLock(tmp_path, time_limit=SHORT):
                pass
    async with InstallLock(tmp_path, time_limit=SHORT):
        pass


async def test_waiting_for_the_install_lock_ends_when_it_is_free(tmp_path: Path) -> None:
    """Who waits gets the lock after it was given back, one after the other."""
    order: list[str] = []

    async def work(name: str) -> None:
        async with InstallLock(tmp_path):
            order.append(f"{name} in")
            await anyio.sleep(0.01)
            order.append(f"{name} out")

    async with anyio.create_task_group() as group:
        for name in ("a", "b", "c"):
            group.start_soon(work, name)
    assert [entry.split()[0] for entry in order[::2]] == [entry.split()[0] for entry in order[1::2]]
    assert len(order) == 6


async def test_a_cancelled_wait_leaves_nothing_behind(tmp_path: Path) -> None:
    """Waiting can be cancelled, and what was cancelled holds no lock afterwards."""
    async with InstallLock(tmp_path):
        with anyio.move_on_after(0.02) as scope:
            async with InstallLock(tmp_path):
                pytest.fail("it was taken twice")
        assert scope.cancelled_caught
    for _ in range(20):
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with InstallLock(tmp_path):
                pass
    async with InstallLock(tmp_path, time_limit=SHORT):
        pass


async def test_a_lock_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """A data folder that is no folder raises StoreError, not OSError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        async with InstallLock(tmp_path / "file"):
            pass


async def test_a_life_that_cannot_be_looked_at_counts_as_living(tmp_path: Path) -> None:
    """is_alive never raises; in doubt nothing of a manager is touched."""
    (tmp_path / "managers").write_text("not a folder")
    assert is_alive(tmp_path, "m1")


async def test_the_files_of_the_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    """remove_dead_files knows the living by their locks."""
    assert remove_dead_files(tmp_path) == []
    async with ManagerLock(tmp_path, "m1"):
        (tmp_path / "managers" / "m0.lock").touch()
        assert remove_dead_files(tmp_path) == ["m0"]
        assert remove_dead_files(tmp_path) == []
        assert is_alive(tmp_path, "m1")


async def test_a_lock_whose_file_was_cleaned_away_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file removed between opening and locking would make its owner look dead: the lock is then taken on a new file."""
    opened = os.open
    removals: list[Path] = []

    def open_and_lose(path: Path, *args: int) -> int:
        descriptor = opened(path, *args)
        if not removals:
            removals.append(path)
            Path(path).unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    async with ManagerLock(tmp_path, "m1"):
        assert removals
        assert is_alive(tmp_path, "m1")


async def test_programs_a_manager_starts_do_not_keep_it_alive(tmp_path: Path) -> None:
    """The lock is close-on-exec: a child that outlives its manager does not count as the manager."""
    async with ManagerLock(tmp_path, "m1"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert not is_alive(tmp_path, "m1")
    finally:
        child.kill()
        child.wait()


FORKING = """
import asyncio, os, sys
from pathlib import Path
from cnap_runner.store.presence import ManagerLock

async def main():
    lock = ManagerLock(Path(sys.argv[1]), "m1")
    await lock.__aenter__()
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, str(lock.is_held).encode())
        sys.stdin.read()
        os._exit(0)
    print(os.read(ours, 10).decode(), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_forked_child_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """A child made by a plain fork lets go of its copy: its parent, killed, is dead while the child lives."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline().strip() == "False", "the child believes to hold the lock"
        assert parent.wait() == -9
        assert not is_alive(tmp_path, "m1")
        assert remove_dead_files(tmp_path) == ["m1"]
