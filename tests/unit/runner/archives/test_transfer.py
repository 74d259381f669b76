"""An agent leaves one install as a file and comes into another."""

from __future__ import annotations

import gzip
import json
import os
import socket
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, Settings, wiring
from cnap_runner.errors import (
    ArchiveInvalid,
    BackendError,
    ConflictError,
    InsufficientResources,
    RunnerError,
    RunnerNotFound,
)
from cnap_runner.model.instance import InstanceStatus, Layout
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.fake_opencode import Hold

KEY = "kitchen-sink-0451"


class Heard(ArchiveListener):
    """What was told, and what is to happen then."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.done = 0

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)

    def on_progress(self, done: int, total: int) -> None:
        assert done <= total
        self.done = done


@pytest.fixture
async def elsewhere(
    tmp_path: Path, manager: RunnerManager, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunnerManager]:
    """Another install. It is opened after the first, whose backend is another."""
    monkeypatch.setattr(wiring, "make_backend", lambda _: FakeBackend())
    async with RunnerManager(Settings(data_dir=tmp_path / "elsewhere")) as other:
        yield other


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alice.tar.gz"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: contents(archive, member) for member in archive}


def contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    data = archive.extractfile(member) if member.isreg() else None
    return b"" if data is None else data.read()


def files_below(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*")}


async def test_an_agent_goes_on_elsewhere(
    manager: RunnerManager, elsewhere: RunnerManager, house: Any, file: Path, ask: Any, tmp_path: Path
) -> None:
    """Spec, files and the sessions of its tasks are the same there."""
    spec = AgentSpec.parse(
        {"agent_id": "alice", "model": "fake/demo", "system_prompt": "Be brief.", "life": {"max_run_time": "5m"}}
    )
    runner = await manager.create_runner(spec)
    first = await runner.run(ask("hello"))
    second = await runner.run(ask("hello", task_id="other"))
    (house.data_dir / "workspace" / "alice" / "notes.md").write_text("mine")
    (house.data_dir / "agents" / "alice" / "state" / "opencode").mkdir()
    (house.data_dir / "agents" / "alice" / "state" / "opencode" / "opencode.db").write_bytes(b"sessions")
    await manager.export_agent("alice", file)
    there = await elsewhere.import_agent(file)
    assert there.spec == spec
    data = tmp_path / "elsewhere"
    assert (data / "workspace" / "alice" / "notes.md").read_text() == "mine"
    assert (data / "agents" / "alice" / "state" / "opencode" / "opencode.db").read_bytes() == b"sessions"
    store = elsewhere._usable().install.store
    assert await store.sessions_of("alice") == {"main": first.session_id, "other": second.session_id}
    assert sorted(path.name for path in (data / "workspace").iterdir()) == ["alice"]
    assert sorted(path.name for path in (data / "agents").iterdir()) == ["alice"]


async def test_an_archive_is_for_its_owner_alone_and_whole_or_not_there(
    manager: RunnerManager, spec: AgentSpec, file: Path, tmp_path: Path
) -> None:
    """Nothing half written stays beside it, and it replaces an older one."""
    await manager.create_runner(spec)
    file.write_bytes(b"older")
    await manager.export_agent("alice", file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "alice" in path.name] == ["alice.tar.gz"]
    with pytest.raises(RunnerError):
        await manager.export_agent("alice", tmp_path / "none" / "x.tar.gz")
    with pytest.raises(RunnerNotFound):
        await manager.export_agent("bob", file)


async def test_secrets_and_logins_stay_behind(
    manager: RunnerManager, house: Any, file: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, OpenCode's own logins and its logs; a file of the agent that holds a value is named."""
    monkeypatch.setenv("KITCHEN", KEY)
    secrets = {"SINK": "env:KITCHEN", "LATER": "env:NOT_SET"}
    opencode = {"provider": {"fake": {"options": {"apiKey": "${SINK}"}}}}
    await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", secrets=secrets, opencode=opencode))
    state = house.data_dir / "agents" / "alice" / "state" / "opencode"
    (state / "log").mkdir(parents=True)
    for name in ("auth.json", "mcp-auth.json", "log/today.log", "opencode.db-shm"):
        (state / name).write_text(KEY)
    (state / "opencode.db").write_bytes(b"x" * (1 << 20) + b"y" * 10)
    leak = house.data_dir / "workspace" / "alice" / "leak.txt"
    leak.write_bytes(b"x" * ((1 << 20) - 7) + KEY.encode())
    await manager.export_agent("alice", file, listener=heard)
    found = members(file)
    assert {name for name in found if name.startswith("state/opencode/")} == {"state/opencode/opencode.db"}
    assert [name for name, data in found.items() if KEY.encode() in data] == ["workspace/leak.txt"]
    assert heard.warnings == [
        "Secret LATER could not be read here, so it was not looked for.",
        "workspace/leak.txt holds the value of secret SINK, and so does the archive.",
    ]
    assert json.loads(found["manifest.json"])["needs"] == {"SINK": "env:KITCHEN", "LATER": "env:NOT_SET"}


async def test_a_literal_secret_is_in_no_archive(manager: RunnerManager, file: Path) -> None:
    """What was written into a spec stays in the vault, and the archive names it."""
    with pytest.warns(UserWarning, match="given in clear"):
        await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", secrets={"SINK": f"literal:{KEY}"}))
    await manager.export_agent("alice", file)
    assert KEY.encode() not in gzip.decompress(file.read_bytes())
    assert json.loads(members(file)["manifest.json"])["needs"]["SINK"].startswith("vault:alice/SINK")


async def test_missing_secrets_are_named_at_import(
    manager: RunnerManager, elsewhere: RunnerManager, file: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first run, not in it. Under another id, the vault is asked for that one's own."""
    monkeypatch.setenv("THERE", KEY)
    secrets = {"HERE": "env:NOT_SET", "FOUND": "env:THERE", "KEPT": "vault:alice/KEPT"}
    await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", secrets=secrets))
    await manager.export_agent("alice", file)
    bob = await elsewhere.import_agent(file, agent_id="bob", listener=heard)
    assert bob.spec.secrets == secrets | {"KEPT": "vault:bob/KEPT"}
    assert heard.warnings == [
        "Secret HERE (env:NOT_SET) has no value here; set it before the first run.",
        "Secret KEPT (vault:bob/KEPT) has no value here; set it before the first run.",
    ]


async def test_an_import_names_what_the_agent_uses(
    manager: RunnerManager, elsewhere: RunnerManager, file: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reference, whatever the manifest says of it, and an image that is not there."""
    spec = AgentSpec(agent_id="alice", model="fake/demo", secrets={"HERE": "file:/etc/shadow"}, image="team/tools:1")
    await manager.create_runner(spec)
    await manager.export_agent("alice", file)
    parts = elsewhere._usable()
    monkeypatch.setattr(parts, "install", replace(parts.install, has_image=lambda _: False))
    await elsewhere.import_agent(file, listener=heard)
    assert heard.notes == [
        "Agent alice uses these secrets: HERE (file:/etc/shadow).",
        "The engine has no image team/tools:1; pull or build it before the first run.",
    ]


async def test_a_name_that_no_import_takes_is_left_out_and_named(
    manager: RunnerManager, elsewhere: RunnerManager, house: Any, spec: AgentSpec, file: Path, heard: Heard
) -> None:
    """One deep folder does not make an archive that nobody can read."""
    await manager.create_runner(spec)
    workspace = house.data_dir / "workspace" / "alice"
    folder = os.open(workspace, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    await manager.export_agent("alice", file, listener=heard)
    assert ["its name is too long" in warning for warning in heard.warnings] == [True] * len(heard.warnings)
    assert heard.warnings
    assert (await elsewhere.import_agent(file)).agent_id == "alice"


async def test_an_imported_workspace_is_open_as_a_new_one_is(
    manager: RunnerManager, elsewhere: RunnerManager, house: Any, spec: AgentSpec, file: Path, tmp_path: Path
) -> None:
    """The host's user reads it there too; sessions and home stay the agent's alone."""
    await manager.create_runner(spec)
    await manager.export_agent("alice", file)
    await elsewhere.import_agent(file)
    for place in ("workspace/alice", "agents/alice/state", "agents/alice/home", "agents/alice"):
        made, imported = house.data_dir / place, tmp_path / "elsewhere" / place
        assert imported.stat().st_mode == made.stat().st_mode, place


async def test_the_home_travels_only_when_asked(
    manager: RunnerManager, elsewhere: RunnerManager, house: Any, spec: AgentSpec, file: Path, tmp_path: Path
) -> None:
    """Caches are made anew, and what tools log in with stays where it is."""
    await manager.create_runner(spec)
    (house.data_dir / "agents" / "alice" / "home" / ".cache").write_text("x")
    await manager.export_agent("alice", file)
    assert not any(name.startswith("home") for name in members(file))
    await manager.export_agent("alice", file, with_home=True)
    await elsewhere.import_agent(file)
    assert (tmp_path / "elsewhere" / "agents" / "alice" / "home" / ".cache").read_text() == "x"


async def test_only_files_folders_and_links_are_packed_and_no_link_is_followed(
    manager: RunnerManager, house: Any, spec: AgentSpec, file: Path, heard: Heard, tmp_path: Path
) -> None:
    """Whatever an agent puts into its workspace, nothing outside of it is read, and nothing waits for a pipe."""
    await manager.create_runner(spec)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("0451")
    workspace = house.data_dir / "workspace" / "alice"
    (workspace / "file").symlink_to(tmp_path / "private" / "key")
    (workspace / "folder").symlink_to(tmp_path / "private")
    os.mkfifo(workspace / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(workspace / "socket"))
    with (workspace / "hollow").open("wb") as hollow:
        hollow.truncate(1 << 42)
    await manager.export_agent("alice", file, listener=heard)
    found = members(file)
    assert b"0451" not in b"".join(found.values())
    assert {name for name in found if name.startswith("workspace/")} == {"workspace/file", "workspace/folder"}
    assert sorted(warning.split()[0] for warning in heard.warnings) == [
        *("workspace/hollow", "workspace/pipe", "workspace/socket")
    ]


async def test_sessions_of_another_place_do_not_come_along(
    *,
    manager: RunnerManager,
    elsewhere: RunnerManager,
    spec: AgentSpec,
    file: Path,
    heard: Heard,
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenCode never answers a prompt in a session of another folder: the tasks begin new ones, and it is said."""
    await (await manager.create_runner(spec)).run(ask())
    await manager.export_agent("alice", file)
    backend = elsewhere._usable().install.backend
    monkeypatch.setattr(
        backend, "layout", lambda _: Layout(*(f"/elsewhere/{name}" for name in ("w", "s", "h", "c", "k")))
    )
    await elsewhere.import_agent(file, listener=heard)
    assert await elsewhere._usable().install.store.sessions_of("alice") == {}
    assert ["begin new sessions" in warning for warning in heard.warnings] == [True]


async def test_a_live_instance_is_frozen_and_goes_on(
    manager: RunnerManager, house: Any, spec: AgentSpec, file: Path, ask: Any
) -> None:
    """Its database does not change while it is copied; afterwards it serves as before."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    (house.data_dir / "workspace" / "alice" / "a").write_text("x")
    seen: list[InstanceStatus] = []

    class Looking(ArchiveListener):
        def on_progress(self, done: int, total: int) -> None:
            seen.extend(instance.status for instance in house.backend._instances.values())

    await manager.export_agent("alice", file, listener=Looking())
    assert set(seen) == {InstanceStatus.PAUSED}
    assert [instance.status for instance in house.backend._instances.values()] == [InstanceStatus.RUNNING]
    assert (await runner.run(ask())).success
    assert house.starts == ["alice"]


async def test_an_export_waits_for_the_turn(
    manager: RunnerManager, house: Any, spec: AgentSpec, file: Path, ask: Any
) -> None:
    """What an agent is in the middle of is not torn apart."""
    house.script([Hold()])
    runner = await manager.create_runner(spec)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, ask())
        while runner.status != "running":
            await anyio.sleep(0.01)
        tasks.start_soon(manager.export_agent, "alice", file)
        await anyio.sleep(0.2)
        assert not file.exists()
        house.servers["alice"].release()
    assert file.exists()


async def test_an_agent_that_is_there_is_never_replaced(
    manager: RunnerManager, house: Any, spec: AgentSpec, file: Path
) -> None:
    """Neither a known one nor the files of a deleted one; under another id it comes beside it."""
    await manager.create_runner(spec)
    notes = house.data_dir / "workspace" / "alice" / "notes"
    notes.write_text("mine")
    await manager.export_agent("alice", file)
    with pytest.raises(ConflictError, match="already"):
        await manager.import_agent(file)
    copy = await manager.import_agent(file, agent_id="copy")
    assert (copy.agent_id, copy.spec.model) == ("copy", "fake/demo")
    await manager.delete_runner("alice")
    with pytest.raises(ConflictError, match="left files"):
        await manager.import_agent(file)
    assert notes.read_text() == "mine"
    await manager.delete_runner("alice", delete_workspace=True)
    assert (await manager.import_agent(file)).agent_id == "alice"


async def test_a_failed_import_leaves_nothing(
    manager: RunnerManager, elsewhere: RunnerManager, house: Any, spec: AgentSpec, file: Path, tmp_path: Path
) -> None:
    """Damaged, too large, cancelled: the data folder is as before, and a whole archive then comes in."""
    await manager.create_runner(spec)
    (house.data_dir / "workspace" / "alice" / "large").write_bytes(os.urandom(3 << 20))
    await manager.export_agent("alice", file)
    data = tmp_path / "elsewhere"

    def left() -> set[str]:
        return files_below(data / "workspace") | files_below(data / "agents")

    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ArchiveInvalid):
        await elsewhere.import_agent(broken)
    assert left() == set()
    with pytest.raises(InsufficientResources, match="max-size"):
        await elsewhere.import_agent(file, max_bytes=1 << 20)
    assert left() == set()

    class Cancelling(ArchiveListener):
        def on_progress(self, done: int, total: int) -> None:
            anyio.from_thread.run_sync(scope.cancel)

    with anyio.CancelScope() as scope:
        await elsewhere.import_agent(file, listener=Cancelling())
    assert scope.cancelled_caught
    assert left() == set()
    assert await elsewhere.list_runners() == []
    assert (await elsewhere.import_agent(file)).agent_id == "alice"


async def test_a_cancelled_export_leaves_nothing(
    manager: RunnerManager, house: Any, spec: AgentSpec, file: Path, tmp_path: Path, ask: Any
) -> None:
    """No draft, and no frozen agent."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    (house.data_dir / "workspace" / "alice" / "large").write_bytes(bytes(3 << 20))

    class Cancelling(ArchiveListener):
        def on_progress(self, done: int, total: int) -> None:
            anyio.from_thread.run_sync(scope.cancel)

    with anyio.CancelScope() as scope:
        await manager.export_agent("alice", file, listener=Cancelling())
    assert scope.cancelled_caught
    assert [path.name for path in tmp_path.iterdir() if "alice" in path.name] == []
    assert (await runner.run(ask())).success


async def test_a_freeze_whose_answer_was_lost_is_taken_back(
    manager: RunnerManager, house: Any, spec: AgentSpec, file: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export fails, and the agent does not stay frozen for it."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    pause = house.backend.pause

    async def lost(ref: Any) -> None:
        await pause(ref)
        raise BackendError("no answer came")

    monkeypatch.setattr(house.backend, "pause", lost)
    with pytest.raises(BackendError):
        await manager.export_agent("alice", file)
    assert [instance.status for instance in house.backend._instances.values()] == [InstanceStatus.RUNNING]


async def test_a_spec_that_cannot_work_here_is_refused_before_anything_is_unpacked(
    manager: RunnerManager,
    elsewhere: RunnerManager,
    spec: AgentSpec,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same checks as for any other spec."""
    await manager.create_runner(spec)
    await manager.export_agent("alice", file)

    def refuse(_: AgentSpec) -> None:
        raise ArchiveInvalid("not here")

    monkeypatch.setattr(elsewhere, "_check", refuse)
    with pytest.raises(ArchiveInvalid, match="not here"):
        await elsewhere.import_agent(file)
    assert not (tmp_path / "elsewhere" / "workspace").exists()
