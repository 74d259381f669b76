"""Files that an agent may change under our hands."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner.errors import RunnerError
from cnap_runner.runner.workspaces import confined
from cnap_runner.runner.workspaces.access import give_all, give_top
from cnap_runner.runner.workspaces.confined import Step, Walk, opened_folder, read_file
from cnap_runner.runner.workspaces.disk import LEAST_BYTES, DiskUse, free_bytes, measure, measure_now
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.runner.workspaces.removal import remove

AGENT = (10000, 10000)
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")


@pytest.fixture
def folders(tmp_path: Path) -> AgentFolders:
    folders = AgentFolders(tmp_path / "data", "alice")
    folders.make(None)
    return folders


@pytest.fixture
def few_files() -> Iterator[None]:
    """As few open files as the manager's bound on folders leaves room for."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + confined.KEPT_OPEN + 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def nest(top: Path, levels: int) -> None:
    """Folders in folders, deeper than any path may be long, with a file at the bottom."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 20, dir_fd=descriptor)
        deeper = os.open("d" * 20, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    with os.fdopen(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
        file.write(b"x" * 100_000)
    os.close(descriptor)


@pytest.mark.usefixtures("few_files")
def test_a_tree_deeper_than_files_may_be_open_is_measured_and_removed(folders: AgentFolders) -> None:
    """An agent cannot make its workspace too deep to count or to delete."""
    nest(folders.workspace, 3000)
    use = measure_now(folders)
    assert use.is_complete
    assert use.workspace > 100_000
    folders.delete()
    assert not folders.workspace.exists()


def test_links_are_counted_as_links(folders: AgentFolders, tmp_path: Path) -> None:
    """What a link points to is not the agent's use, and a loop of links is no loop."""
    (tmp_path / "big").write_bytes(b"x" * 1_000_000)
    (folders.workspace / "link").symlink_to(tmp_path / "big")
    (folders.workspace / "loop").symlink_to(".")
    (folders.workspace / "host").symlink_to("/")
    assert measure_now(folders).total < 100_000


def test_a_file_with_several_names_counts_once(folders: AgentFolders) -> None:
    """In whichever of the agent's folders they lie."""
    (folders.workspace / "one").write_bytes(b"x" * 1_000_000)
    alone = measure_now(folders).total
    os.link(folders.workspace / "one", folders.workspace / "two")
    os.link(folders.workspace / "one", folders.home / "three")
    assert measure_now(folders).total - alone < 10_000


def test_a_file_with_holes_counts_what_it_takes(folders: AgentFolders) -> None:
    """Allocated bytes, not the length."""
    with (folders.workspace / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert measure_now(folders).total < 100_000


def test_files_without_content_count_too(folders: AgentFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk has a fixed number of places for files: an agent that makes nothing but empty ones reaches its quota, and the host's reserve."""
    before = measure_now(folders).total
    for number in range(200):
        (folders.workspace / str(number)).touch()
    assert measure_now(folders).total - before >= 200 * LEAST_BYTES

    full: Any = type("Full", (), {"f_bavail": 1 << 20, "f_frsize": 4096, "f_favail": 3, "f_files": 100})
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert free_bytes(folders.workspace) == 3 * LEAST_BYTES
    full.f_files = full.f_favail = 0
    assert free_bytes(folders.workspace) == 1 << 32


async def test_measuring_ends_when_it_is_cancelled(folders: AgentFolders) -> None:
    """The thread does not go on for nobody."""
    for name in range(50):
        (folders.workspace / str(name)).mkdir()
    before = threading.active_count()
    with anyio.move_on_after(0):
        await measure(folders)
    assert (await measure(folders)).is_complete
    assert threading.active_count() <= before + 2


def test_one_full_folder_does_not_keep_a_walk_from_stopping(tmp_path: Path) -> None:
    """An agent can put millions of names into one folder."""
    for name in range(50):
        (tmp_path / str(name)).touch()
    seen: list[str] = []
    with opened_folder(tmp_path) as top:
        walk = Walk(top, should_stop=lambda: len(seen) >= 5)
        for found in walk:
            seen.append(found.name)  # noqa: PERF401 - it is looked at meanwhile
    assert (len(seen), walk.missed is None) == (5, False)


def test_an_agent_without_folders_takes_nothing(tmp_path: Path) -> None:
    """Deleted between a look and the next."""
    use = measure_now(AgentFolders(tmp_path / "nowhere", "alice"))
    assert (use.total, use.is_complete) == (DiskUse().total, True)


def test_a_folder_swapped_for_a_link_while_walking_is_not_left(tmp_path: Path) -> None:
    """The classic race: looked at as a folder, a link by the time it is opened."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (inside / "victim").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").write_text("x")
    (inside / "bait").write_text("x")
    with opened_folder(inside) as top:
        for found in (walk := Walk(top)):
            if found.name == "bait":
                (inside / "victim").rmdir()
                (inside / "victim").symlink_to(outside)
            assert found.name != "precious"
        assert walk.missed in {None, "victim"}


def test_a_folder_moved_away_while_walking_ends_the_walk_there(tmp_path: Path) -> None:
    """Going up from a moved folder would lead elsewhere."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    nest(inside, confined.KEPT_OPEN + 10)
    (outside / "precious").write_text("x")
    with opened_folder(inside) as top:
        walk = Walk(top)
        for found in walk:
            assert found.name != "precious"
            if found.step is Step.FILE:
                (inside / ("d" * 20) / ("d" * 20)).rename(outside / "moved")
        assert walk.missed


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """Neither a link out of the folder, nor a pipe that would be waited for, nor a device."""
    (tmp_path / "file").write_text("inside")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    assert read_file(tmp_path, "file", at_most=3) == b"ins"
    for name in ("link", "pipe", "socket", ".", "nowhere"):
        with pytest.raises(OSError, match=r"."):
            read_file(tmp_path, name, at_most=3)


def test_removing_follows_nothing_out(tmp_path: Path) -> None:
    """Links to files, to folders, to themselves; odd names; special files."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "to folder").symlink_to(outside)
    (inside / "to file").symlink_to(outside / "precious")
    (inside / "sub" / "self").symlink_to("self")
    os.mkfifo(inside / "pipe")
    for name in (b"\xff\xfe", b"line\nend", b" ", b"-rf", "日本".encode()):
        (Path(os.fsdecode(bytes(inside))) / os.fsdecode(name)).write_text("x")
    os.link(outside / "precious", inside / "hard")
    remove(inside)
    assert not inside.exists()
    assert (outside / "precious").read_text() == "x"
    remove(inside)


CLOSED = """
import os, sys
from pathlib import Path
from cnap_runner.errors import RunnerError
from cnap_runner.runner.workspaces.removal import remove
os.setgroups([]); os.setgid(12345); os.setuid(12345)
top = Path(sys.argv[1])
(top / "a" / "b").mkdir(parents=True)
(top / "a" / "b" / "f").write_text("x")
for folder in (top / "a" / "b", top / "a", top):
    folder.chmod(0)
remove(top)
assert not top.exists()
try:
    remove(Path(sys.argv[2]))
except RunnerError as error:
    print(error)
"""


@only_root
def test_an_ordinary_user_removes_closed_folders_and_is_told_of_anothers_files(tmp_path: Path) -> None:
    """Folders that their owner closed (mode 0000) are opened; those of another user are named, with what to do."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    os.chown(ours, 12345, 12345)
    (theirs / "folder").mkdir(parents=True)
    (theirs / "folder" / "file").write_text("x")
    for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
        folder.chmod(folder.stat().st_mode | 0o711)
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, str(ours / "top"), str(theirs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "belong to another user" in done.stdout
    assert "as their owner or as root" in done.stdout
    assert (theirs / "folder" / "file").exists()


def test_what_is_mounted_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that the operator mounted into a workspace is not emptied."""
    (tmp_path / "inside" / "mounted").mkdir(parents=True)
    real = os.fstat

    def elsewhere(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        return os.stat_result([*status[:2], 4242, *status[3:]]) if name == "mounted" else status

    monkeypatch.setattr(os, "fstat", elsewhere)
    with pytest.raises(RunnerError, match="another file system is mounted"):
        remove(tmp_path / "inside")
    assert (tmp_path / "inside" / "mounted").exists()


# --- shared between the agent and the host's user ---------------------------------------------------------------------


@only_root
def test_what_root_makes_in_a_workspace_is_writable_for_the_agent(folders: AgentFolders) -> None:
    """Editors, shells and git make files with the usual modes; the folder's access list does the rest."""
    folders.make(AGENT)
    (folders.workspace / "sub").mkdir()
    (folders.workspace / "sub" / "notes").write_text("root's")
    for folder in (folders.data_dir, *list(folders.data_dir.parents)[:-1]):
        folder.chmod(folder.stat().st_mode | 0o711)
    code = (
        "import os,sys; os.setgroups([]); os.setgid(10000); os.setuid(10000); open(sys.argv[1],'a').write(' and mine')"
    )
    subprocess.run([sys.executable, "-c", code, str(folders.workspace / "sub" / "notes")], check=True)
    assert (folders.workspace / "sub" / "notes").read_text() == "root's and mine"


@only_root
def test_what_was_put_into_a_workspace_before_the_first_start_is_the_agents(folders: AgentFolders) -> None:
    """A project copied there by root between making the agent known and its first turn, whatever its depth."""
    (folders.workspace / "src" / "deep").mkdir(parents=True)
    (folders.workspace / "src" / "deep" / "main.py").write_text("x")
    folders.make(AGENT)
    owners = {path.lstat().st_uid for path in (folders.workspace, *folders.workspace.rglob("*"))}
    assert owners == {AGENT[0]}


@only_root
def test_a_start_gives_the_agent_what_root_put_on_top(folders: AgentFolders) -> None:
    """What lies directly in the workspace; a file whose other name may be outside is left alone."""
    folders.make(AGENT)
    (folders.workspace / "file").write_text("x")
    (folders.workspace / "link").symlink_to(folders.data_dir)
    os.link(folders.workspace / "file", folders.data_dir / "other")
    (folders.workspace / "alone").write_text("x")
    given = give_top(folders.workspace, AGENT)
    assert (given.count, given.left) == (2, 1)
    assert (folders.workspace / "link").lstat().st_uid == AGENT[0]
    assert folders.data_dir.stat().st_uid == 0
    assert (folders.data_dir / "other").stat().st_uid == 0


@only_root
def test_all_of_a_workspace_is_given_without_following_links(folders: AgentFolders, tmp_path: Path) -> None:
    """Deep files too; what links point to keeps its owner; a second time changes nothing."""
    folders.make(AGENT)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (folders.workspace / "a" / "b").mkdir(parents=True)
    (folders.workspace / "a" / "b" / "f").write_text("x")
    (folders.workspace / "a" / "out").symlink_to(outside)
    (folders.workspace / "a" / "file").symlink_to(outside / "precious")
    given = give_all(folders.workspace, AGENT, {AGENT[0]})
    assert given.count == 5
    assert (folders.workspace / "a" / "b" / "f").stat().st_uid == AGENT[0]
    assert (outside.stat().st_uid, (outside / "precious").stat().st_uid) == (0, 0)
    assert give_all(folders.workspace, AGENT, {AGENT[0]}).count == 0
