"""The files of all agents of an install, on fakes."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest, Workspace
from cnap_runner.errors import ConflictError, InvalidInput, RunnerNotFound, WorkspaceSeedFailed
from cnap_runner.store.sql import SqlStore

Ask = Callable[..., RunRequest]
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text("seed")
    return source


async def test_a_workspace_is_seeded_at_the_first_start_and_only_then(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, source: Path
) -> None:
    """Making the agent known copies nothing; a later start leaves what the agent made of it."""
    runner = await manager.create_runner(spec.model_copy(update={"workspace": Workspace(copy=source)}))
    workspace = house.data_dir / "workspace" / "alice"
    assert list(workspace.iterdir()) == []
    await runner.run(ask())
    assert (workspace / "README.md").read_text() == "seed"
    (workspace / "README.md").unlink()
    await manager.stop_runner("alice")
    await runner.run(ask())
    assert list(workspace.iterdir()) == []


async def test_a_seed_that_fails_starts_nothing_and_is_tried_again(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, source: Path
) -> None:
    """The run is told why, and so is the runner's record."""
    runner = await manager.create_runner(spec.model_copy(update={"workspace": Workspace(copy=source)}))
    (source / "README.md").unlink()
    os.mkfifo(source / "README.md")
    with pytest.raises(WorkspaceSeedFailed, match="alice could not be seeded"):
        await runner.run(ask())
    runner = await manager.get_runner("alice")
    assert (house.starts, runner.status) == ([], RunnerStatus.FAILED)
    assert "could not be seeded" in str(runner.record.reason)
    (source / "README.md").unlink()
    assert (await runner.run(ask())).success


async def test_a_source_that_cannot_work_is_refused_before_the_agent_is_known(
    manager: RunnerManager, house: Any, spec: AgentSpec
) -> None:
    """Neither a row nor a folder is made."""
    for workspace in (Workspace(copy="/nowhere"), Workspace(git="ext::sh -c id"), Workspace(copy=house.data_dir)):
        with pytest.raises(InvalidInput):
            await manager.create_runner(spec.model_copy(update={"workspace": workspace}))
        bob = spec.model_copy(update={"agent_id": "bob"})
        with pytest.raises(InvalidInput):
            await manager.apply([bob, spec.model_copy(update={"workspace": workspace})])
    assert await manager.list_runners() == []
    assert not (house.data_dir / "workspace" / "alice").exists()


async def test_all_workspaces_are_listed(manager: RunnerManager, house: Any, spec: AgentSpec) -> None:
    """Known and deleted agents, and files whose agent is forgotten; nothing that is no agent's."""
    await manager.create_runner(spec)
    (house.data_dir / "workspace" / "alice" / "big").write_bytes(b"x" * 100_000)
    (house.data_dir / "agents" / "alice" / "state" / "db").write_bytes(b"x" * 50_000)
    await manager.create_runner(spec.model_copy(update={"agent_id": "bob"}))
    await manager.delete_runner("bob")
    (house.data_dir / "workspace" / "ghost").mkdir()
    (house.data_dir / "workspace" / "Not an agent").mkdir()
    alice, bob, ghost = await manager.list_workspaces()
    assert [info.agent_id for info in (alice, bob, ghost)] == ["alice", "bob", "ghost"]
    assert (alice.is_deleted, bob.is_deleted, ghost.is_deleted) == (False, True, True)
    assert 100_000 <= alice.workspace_bytes < 150_000
    assert 50_000 <= alice.state_bytes < 100_000
    assert alice.path == house.data_dir / "workspace" / "alice"
    assert timedelta(0) <= alice.age < timedelta(minutes=1)
    assert bob.deleted_at is not None
    assert (await manager.measure_workspace("ghost")).is_deleted
    with pytest.raises(RunnerNotFound):
        await manager.measure_workspace("nobody")


async def test_deleting_an_agent_touches_no_file(manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask) -> None:
    """``delete_workspace=False``: workspace, sessions and home stay as they are, to the byte."""
    await (await manager.create_runner(spec)).run(ask())
    for folder in ("workspace/alice", "agents/alice/state", "agents/alice/home"):
        (house.data_dir / folder / "kept").write_text(folder)
        (house.data_dir / folder / "link").symlink_to("/etc/passwd")
    await manager.stop_runner("alice")
    before = snapshot(house.data_dir / "workspace") | snapshot(house.data_dir / "agents")
    await manager.delete_runner("alice")
    assert snapshot(house.data_dir / "workspace") | snapshot(house.data_dir / "agents") == before


async def test_a_workspace_is_removed_only_while_its_agent_is_stopped(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, source: Path
) -> None:
    """Sessions stay, and the next start seeds it anew."""
    runner = await manager.create_runner(spec.model_copy(update={"workspace": Workspace(copy=source)}))
    await runner.run(ask())
    with pytest.raises(ConflictError, match="cnap-runner stop alice"):
        await manager.remove_workspace("alice")
    await manager.stop_runner("alice")
    session = house.data_dir / "agents" / "alice" / "state" / "db"
    session.write_text("kept")
    await manager.remove_workspace("alice")
    assert not (house.data_dir / "workspace" / "alice").exists()
    assert session.exists()
    await runner.run(ask())
    assert (house.data_dir / "workspace" / "alice" / "README.md").exists()
    with pytest.raises(RunnerNotFound):
        await manager.remove_workspace("nobody")


async def test_retention_ends_deleted_agents_files_and_nobody_elses(house: Any, spec: AgentSpec) -> None:
    """Only of agents deleted for long enough; one that came back keeps its files; without a retention nothing happens."""
    async with house.manager() as manager:
        for agent_id in ("alice", "bob", "carol"):
            await manager.create_runner(spec.model_copy(update={"agent_id": agent_id}))
        await manager.delete_runner("bob")
        await manager.delete_runner("carol")
        await manager.create_runner(spec.model_copy(update={"agent_id": "carol"}))
        assert await manager.prune_workspaces() == []
    async with house.manager(workspace_retention="1h") as manager:
        assert await manager.prune_workspaces() == []
    async with house.manager(is_observer=True, workspace_retention=1e-6) as manager:
        assert [info.agent_id for info in await manager.list_workspaces()] == ["alice", "bob", "carol"]
        assert await manager.prune_workspaces() == ["bob"]
        assert [info.agent_id for info in await manager.list_workspaces()] == ["alice", "carol"]


async def test_a_manager_prunes_when_it_begins(house: Any, spec: AgentSpec) -> None:
    """Nobody has to remember to; one that only looks does not."""
    async with house.manager() as manager:
        await manager.create_runner(spec)
        await manager.delete_runner("alice")
    async with house.manager(is_observer=True, workspace_retention=1e-6):
        await anyio.sleep(0.1)
    assert (house.data_dir / "workspace" / "alice").exists()
    async with house.manager(workspace_retention=1e-6):
        with anyio.fail_after(10):
            while (house.data_dir / "workspace" / "alice").exists():
                await anyio.sleep(0.02)


async def test_an_agent_that_comes_back_as_its_retention_ends_has_all_of_its_files(
    house: Any, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made known again at the last moment, it is not due any more, and nothing of it is removed."""
    async with house.manager() as manager:
        await manager.create_runner(spec)
        (house.data_dir / "workspace" / "alice" / "work").write_text("mine")
        await manager.delete_runner("alice")
    erase = SqlStore.erase_deleted
    async with house.manager(is_observer=True, workspace_retention=1e-6) as manager:

        async def comes_back(store: SqlStore, agent_id: str) -> bool:
            await manager.create_runner(spec)
            return await erase(store, agent_id)

        monkeypatch.setattr(SqlStore, "erase_deleted", comes_back)
        assert await manager.prune_workspaces() == []
    assert (house.data_dir / "workspace" / "alice" / "work").read_text() == "mine"


async def test_what_an_earlier_prune_left_is_removed(house: Any) -> None:
    """A prune that was killed, or could not remove a file, is finished by the next one."""
    left = house.data_dir / "workspace" / ".alice~removed"
    left.mkdir(parents=True)
    (left / "work").touch()
    async with house.manager(is_observer=True, workspace_retention="1h") as manager:
        await manager.prune_workspaces()
    assert not left.exists()


@only_root
async def test_files_of_others_are_given_to_the_agent_on_request(
    manager: RunnerManager, house: Any, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root; an ordinary user is told what to do instead."""
    await manager.create_runner(spec)
    workspace = house.data_dir / "workspace" / "alice"
    (workspace / "sub").mkdir()
    (workspace / "sub" / "file").write_text("x")
    with pytest.raises(InvalidInput, match="chown"):
        await manager.fix_workspace("alice")
    monkeypatch.setattr(house.backend, "file_owner", lambda: (10000, 10000))
    assert (await manager.fix_workspace("alice")).count == 3
    assert (workspace / "sub" / "file").stat().st_uid == 10000
    assert (await manager.fix_workspace("alice")).count == 0
