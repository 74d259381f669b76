"""A workspace that begins as a copied folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from cnap_runner import Workspace
from cnap_runner.errors import InvalidInput, WorkspaceSeedFailed
from cnap_runner.runner.workspaces.seeding import check_seed

AGENT = (10000, 10000)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("text")
    (source / "sub" / "run").write_text("#!/bin/sh")
    (source / "sub" / "run").chmod(0o4755)
    (source / "inside").symlink_to("sub/run")
    (source / "outside").symlink_to("/etc/passwd")
    os.link(source / "file", source / "twin")
    (source / "sub").chmod(0o555)
    return source


async def test_a_folder_is_copied_with_links_as_links(place: Any, source: Path) -> None:
    """Modes and times are kept, set-id bits and common inodes are not; nothing of the draft is left."""
    await place.seed(copy=source)
    made = place.folders.workspace
    assert place.files == ["file", "inside", "outside", "sub", "twin"]
    assert (made / "outside").is_symlink()
    assert str((made / "outside").readlink()) == "/etc/passwd"
    assert (made / "sub" / "run").stat().st_mode & 0o7777 == 0o755
    assert (made / "sub").stat().st_mode & 0o777 == 0o555
    assert (made / "file").stat().st_mtime_ns == (source / "file").stat().st_mtime_ns
    assert (made / "file").stat().st_nlink == 1
    assert place.leftovers == []


async def test_an_emptied_workspace_is_not_seeded_again(place: Any, source: Path) -> None:
    """What the agent removed stays removed; a source that is gone by then does not matter."""
    await place.seed(copy=source / "sub")
    (place.folders.workspace / "run").unlink()
    (source / "sub").chmod(0o755)
    (source / "sub" / "run").unlink()
    (source / "sub").rmdir()
    await place.seed(copy=source / "sub")
    assert place.files == []


async def test_a_workspace_with_files_is_left_as_it_is(place: Any, source: Path) -> None:
    """An earlier agent's, or the operator's own; also after they are gone."""
    place.folders.make(None)
    (place.folders.workspace / "mine").write_text("x")
    await place.seed(copy=source)
    assert place.files == ["mine"]
    (place.folders.workspace / "mine").unlink()
    await place.seed(copy=source)
    assert place.files == []


async def test_special_files_are_refused_and_nothing_is_left(place: Any, source: Path) -> None:
    """The error names the file; the next try begins anew."""
    os.mkfifo(source / "pipe")
    with pytest.raises(WorkspaceSeedFailed, match=r"alice could not be seeded.*source/pipe is a device, a pipe or"):
        await place.seed(copy=source)
    assert (place.files, place.leftovers) == ([], [])
    (source / "pipe").unlink()
    await place.seed(copy=source)
    assert "file" in place.files


async def test_what_a_killed_manager_left_is_removed(place: Any, source: Path) -> None:
    """A draft of an earlier try does not stay for ever."""
    place.folders.make(None)
    (place.folders.draft("old") / "half").mkdir(parents=True)
    await place.seed(copy=source)
    assert place.leftovers == []


async def test_a_source_deeper_than_files_may_be_open_is_copied(place: Any, tmp_path: Path) -> None:
    """With few folders open on both sides."""
    bottom = tmp_path / "deep"
    for _ in range(150):
        bottom = bottom / "d"
    bottom.mkdir(parents=True)
    (bottom / "file").write_text("deep")
    await place.seed(copy=tmp_path / "deep")
    assert (place.folders.workspace / bottom.relative_to(tmp_path / "deep") / "file").read_text() == "deep"


async def test_impossible_sources_are_refused_before_anything_is_made(place: Any, tmp_path: Path) -> None:
    """No folder, inside of the data folder, or around it; by way of a link too."""
    place.folders.make(None)
    (tmp_path / "link").symlink_to(place.folders.data_dir)
    (tmp_path / "file").write_text("x")
    wrong = {
        tmp_path / "nowhere": "not a folder",
        tmp_path / "file": "not a folder",
        place.folders.data_dir / "agents": "lies in the data folder",
        tmp_path / "link" / "workspace": "lies in the data folder",
        tmp_path: "holds the data folder",
        Path("/"): "holds the data folder",
    }
    for path, reason in wrong.items():
        with pytest.raises(InvalidInput, match=reason):
            check_seed(Workspace(copy=path), place.folders)


async def test_a_cancelled_copy_leaves_nothing(place: Any, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread has ended, too: the draft is not filled any more when it is removed."""
    began, real = anyio.Event(), os.sendfile

    def slow(*arguments: Any) -> int:
        anyio.from_thread.run_sync(began.set)
        while not stopping:
            os.sched_yield()
        return real(*arguments)

    stopping: list[bool] = []
    monkeypatch.setattr(os, "sendfile", slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: place.seed(copy=source))
        await began.wait()
        tasks.cancel_scope.cancel()
        stopping.append(True)
    assert (place.files, place.leftovers) == ([], [])
    assert not place.folders.seeded_mark.exists()


@only_root
async def test_a_seed_belongs_to_the_agent(place: Any, source: Path) -> None:
    """All of it, links too; the source keeps its owner."""
    await place.seed(copy=source, owner=AGENT)
    made = place.folders.workspace
    assert {path.lstat().st_uid for path in (made, *made.rglob("*"))} == {AGENT[0]}
    assert {path.lstat().st_uid for path in (source, *source.rglob("*"))} == {0}
    assert Path("/etc/passwd").stat().st_uid == 0


ORDINARY = """
import os, sys
from pathlib import Path
import anyio
from cnap_runner import AgentSpec, Settings, Workspace
from cnap_runner.runner.workspaces.seeding import Seeder
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.redaction import Redactor
anyio.run(anyio.sleep, 0)  # loads what this user may not read
os.setgroups([]); os.setgid(12345); os.setuid(12345)
data, *sources = map(Path, sys.argv[1:])
for agent_id, source in zip(("copied", "cloned", "refused"), sources):
    workspace = Workspace(git=str(source)) if agent_id == "cloned" else Workspace(copy=source)
    spec, folders = AgentSpec(agent_id=agent_id, model="f/m", workspace=workspace), AgentFolders(data, agent_id)
    folders.make(None)
    seeder = Seeder(Settings(data_dir=data), Redactor(), {})
    try:
        anyio.run(lambda: seeder.seed(spec, folders, owner=None, value=str))
        print(*sorted(path.name for path in folders.workspace.iterdir()))
    except Exception as error:
        print(error)
"""


@only_root
def test_an_ordinary_user_seeds_what_is_readable(tmp_path: Path, source: Path, new_repository: Path) -> None:
    """Copies and clones of others' files become its own; what it may not read is named."""
    closed, data = tmp_path / "closed", tmp_path / "mine"
    closed.mkdir()
    (closed / "private").touch(mode=0o600)
    data.mkdir()
    os.chown(data, 12345, 12345)
    for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
        folder.chmod(folder.stat().st_mode | 0o711)
    done = subprocess.run(
        [sys.executable, "-c", ORDINARY, str(data), str(source), str(new_repository), str(closed)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    copied, cloned, refused = done.stdout.splitlines()
    assert copied == "file inside outside sub twin", done.stderr
    assert cloned == ".git README.md link"
    assert "closed/private cannot be read: Permission denied" in refused
    assert (data / "workspace" / "copied" / "file").stat().st_uid == 12345
