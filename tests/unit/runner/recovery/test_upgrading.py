"""A newer OpenCode for an agent that has sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnap_runner import AgentSpec, RunnerManager, RunRequest
from cnap_runner.errors import RunnerError, ServerNotReady, UnsupportedServerVersion
from cnap_runner.model.journal import DecisionKind
from cnap_runner.runner.recovery.saved_state import drop, has_saved, restore, save
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.testing.fake_opencode import BrokenDatabaseOpenCode, FakeOpenCode
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]
IMAGE = "cnap-runner:latest"


def serves(version: str, database: Path | None = None, *, kind: type[FakeOpenCode] = FakeOpenCode) -> Any:
    """What makes servers of a version, which change the database as they open it."""

    def make(password: str) -> FakeOpenCode:
        if database is not None:
            database.write_text(f"changed by {version}")
        return kind(password, version=version)

    return make


@pytest.fixture
def database(house: House) -> Path:
    return house.data_dir / "agents" / "alice" / "state" / "opencode" / "opencode.db"


async def begun(house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path) -> None:
    """An agent that OpenCode 1.18.33 has served, with sessions, stopped."""
    house.backend.versions[IMAGE] = "1.18.33"
    await (await manager.create_runner(spec)).run(ask())
    await manager.stop_runner("alice")
    database.parent.mkdir(parents=True, exist_ok=True)
    database.write_text("sessions")


async def test_an_upgrade_that_starts_keeps_the_sessions_and_is_written_down(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path
) -> None:
    """The newer version has them, nothing is left beside them, and the record knows the version."""
    await begun(house, manager, spec, ask, database)
    house.backend.versions[IMAGE] = "1.19.0"
    house.make_server = serves("1.19.0", database)
    runner = await manager.get_runner("alice")
    assert (await runner.run(ask())).success
    assert database.read_text() == "changed by 1.19.0"
    assert not has_saved(AgentFolders(house.data_dir, "alice"))
    assert (await manager.get_runner("alice")).record.opencode_version == "1.19.0"
    (told,) = [decision for decision in await runner.explain() if decision.kind is DecisionKind.UPGRADED]
    assert (told.evidence["from"], told.evidence["to"]) == ("1.18.33", "1.19.0")


async def test_an_upgrade_that_does_not_start_leaves_the_sessions_as_they_were(
    house: House, spec: AgentSpec, ask: Ask, database: Path
) -> None:
    """What the newer version did to the database is undone, so that the older one goes on."""
    async with house.manager(max_retries=1, health_timeout=0.5) as manager:
        await begun(house, manager, spec, ask, database)
        house.backend.versions[IMAGE] = "1.19.0"
        house.make_server = serves("1.19.0", database, kind=BrokenDatabaseOpenCode)
        runner = await manager.get_runner("alice")
        with pytest.raises(ServerNotReady):
            await runner.run(ask())
        assert database.read_text() == "sessions"
        assert (await manager.get_runner("alice")).record.opencode_version == "1.18.33"
        house.backend.versions[IMAGE] = "1.18.33"
        house.make_server = FakeOpenCode
        assert (await runner.run(ask())).success
        assert database.read_text() == "sessions"


async def test_a_downgrade_is_refused_before_anything_is_created(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path
) -> None:
    """Both versions and the way out are named; nothing was started."""
    await begun(house, manager, spec, ask, database)
    house.backend.versions[IMAGE] = "1.18.20"
    starts = len(house.starts)
    with pytest.raises(UnsupportedServerVersion, match=r"1\.18\.20.*1\.18\.33") as refused:
        await (await manager.get_runner("alice")).run(ask())
    assert "1.18.33 or newer" in str(refused.value.hint)
    assert len(house.starts) == starts


async def test_a_downgrade_that_shows_only_when_it_runs_is_undone(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path
) -> None:
    """An image that does not say its version is believed when its server does."""
    await begun(house, manager, spec, ask, database)
    house.backend.versions.clear()
    house.make_server = serves("1.18.20", database)
    with pytest.raises(UnsupportedServerVersion):
        await (await manager.get_runner("alice")).run(ask())
    assert database.read_text() == "sessions"
    assert house.backend.live("alice") == []


async def test_what_a_killed_manager_left_of_an_upgrade_is_undone_at_the_next_start(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path
) -> None:
    """A copy that nobody let go of means a start that never ended: its sessions count, not what was done to them meanwhile."""
    await begun(house, manager, spec, ask, database)
    folders = AgentFolders(house.data_dir, "alice")
    save(folders, version="1.18.33")
    database.write_text("half changed")
    assert (await (await manager.get_runner("alice")).run(ask())).success
    assert database.read_text() == "sessions"
    assert not has_saved(folders)


async def test_a_manager_killed_while_it_drops_the_copy_loses_no_session(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a copy is none: the next start neither puts it back nor takes away what is there."""
    await begun(house, manager, spec, ask, database)
    house.backend.versions[IMAGE] = "1.19.0"

    class Killed(BaseException):
        pass

    def kill(folder: Path, **_: Any) -> None:
        for first in folder.glob("opencode.db"):
            first.unlink()
            raise Killed

    async def nothing(*_: object) -> None:
        """It is dead."""

    with monkeypatch.context() as patch:
        patch.setattr("cnap_runner.runner.recovery.saved_state.shutil.rmtree", kill)
        patch.setattr("cnap_runner.runner.recovery.upgrading.Upgrades.after_failure", nothing)
        with pytest.raises(Killed):
            await manager.start_runner("alice")
    await manager.start_runner("alice")
    assert database.read_text() == "sessions"
    assert not has_saved(AgentFolders(house.data_dir, "alice"))


async def test_a_copy_that_cannot_be_removed_never_takes_the_place_of_later_sessions(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files stay after the upgrade, out of the way; what the agent did since stays, too."""
    await begun(house, manager, spec, ask, database)
    house.backend.versions[IMAGE] = "1.19.0"

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", refuse)
        await manager.start_runner("alice")
    for sessions in ("a month of new sessions", "and another one"):
        database.write_text(sessions)
        await manager.stop_runner("alice")
        await manager.start_runner("alice")
        assert database.read_text() == sessions


async def test_a_copy_of_what_an_older_opencode_served_is_not_put_back(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask, database: Path
) -> None:
    """A newer one has served since: its sessions count."""
    await begun(house, manager, spec, ask, database)
    folders = AgentFolders(house.data_dir, "alice")
    save(folders, version="1.17.0")
    database.write_text("later sessions")
    await manager.start_runner("alice")
    assert database.read_text() == "later sessions"
    assert not has_saved(folders)


def test_a_copy_is_whole_comes_back_whole_and_follows_no_link(tmp_path: Path) -> None:
    """The database with all that belongs to it; a link in its place, which an agent could make, is refused."""
    folders = AgentFolders(tmp_path, "alice")
    state = folders.state / "opencode"
    state.mkdir(parents=True)
    save(folders, version=None)
    assert not has_saved(folders)
    (state / "opencode.db").write_text("d")
    (state / "opencode.db-wal").write_text("w")
    save(folders, version=None)
    (state / "opencode.db").write_text("other")
    (state / "opencode.db-wal").unlink()
    (state / "opencode.db-shm").write_text("new")
    restore(folders)
    assert {path.name: path.read_text() for path in state.iterdir()} == {"opencode.db": "d", "opencode.db-wal": "w"}
    drop(folders)
    secret = tmp_path / "secret"
    secret.write_text("not the agent's")
    (state / "opencode.db").unlink()
    (state / "opencode.db").symlink_to(secret)
    with pytest.raises(RunnerError):
        save(folders, version=None)
    assert not has_saved(folders)
