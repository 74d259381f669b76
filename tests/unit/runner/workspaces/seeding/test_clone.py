"""A workspace that begins as a clone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from cnap_runner import AgentSpec, Workspace
from cnap_runner.errors import RunnerError, SecretUnavailable, WorkspaceSeedFailed

Serve = Callable[..., AbstractContextManager[int]]

PASSWORD = "planted-9f2c/@:% 'x"
AGENT = (10000, 10000)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def log_of(folder: Path) -> list[str]:
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "log", "--format=%s"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


async def test_a_local_repository_is_cloned(place: Any, repository: Path) -> None:
    """All of its history, on the branch that its HEAD names; no object is shared with it."""
    await place.seed(git=str(repository))
    assert (place.folders.workspace / "README.md").read_text() == "three"
    assert log_of(place.folders.workspace) == ["three", "two", "one"]
    assert all(path.stat().st_nlink == 1 for path in place.folders.workspace.rglob("*") if path.is_file())
    assert not list((place.folders.workspace / ".git").glob("hooks/*"))


async def test_branch_and_depth_are_kept_to(place: Any, repository: Path) -> None:
    """One commit of the side branch."""
    await place.seed(git=str(repository), branch="side", depth=1)
    assert (place.folders.workspace / "side.txt").exists()
    assert log_of(place.folders.workspace) == ["side"]


@only_root
async def test_anothers_repository_is_cloned_for_the_agent(place: Any, new_repository: Path) -> None:
    """Git's distrust of other owners does not stand in the way of a path that the operator named."""
    bare = new_repository
    for path in (bare, *bare.rglob("*")):
        os.chown(path, 4242, 4242)
    await place.seed(git=str(bare), owner=AGENT)
    assert {path.lstat().st_uid for path in place.folders.workspace.rglob("*")} == {AGENT[0]}


async def test_an_unknown_branch_is_told_in_gits_words(place: Any, repository: Path) -> None:
    """One line that names the agent and the reason; nothing is left."""
    with pytest.raises(WorkspaceSeedFailed, match=r"agent alice .*git clone failed: .*Remote branch nope not found"):
        await place.seed(git=str(repository), branch="nope")
    assert (place.files, place.leftovers) == ([], [])


def secrets_seen(secret: str) -> list[str]:
    """Find a secret in the arguments and environments of all processes, and in git's own temporary configuration."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if secret.encode() in (folder / name).read_bytes():
                    found.append(f"{folder}/{name}")
            except OSError:
                continue
    return found


async def test_credentials_reach_git_and_nothing_else(
    place: Any, repository: Path, serve_git: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not ``.git/config``, nor any process's arguments or environment while it clones, nor a log, nor anything in the data folder."""
    seen, looked = [], []

    def look() -> None:
        looked.append(1)
        seen.extend(secrets_seen(PASSWORD))

    with serve_git(repository.parent, user="me@work", password=PASSWORD, asked=look) as port:
        url = f"http://${{WHO}}:${{PASS}}@127.0.0.1:{port}/{repository.name}"
        await place.seed(git=url, value={"WHO": "me@work", "PASS": PASSWORD}.__getitem__)
    assert looked
    assert seen == []
    config = (place.folders.workspace / ".git" / "config").read_text()
    assert f"url = http://127.0.0.1:{port}/{repository.name}" in config
    assert "me@work" not in config
    for path in place.folders.data_dir.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()
    out = capfd.readouterr()
    assert PASSWORD not in caplog.text + out.out + out.err
    assert log_of(place.folders.workspace) == ["three", "two", "one"]


async def test_wrong_credentials_are_one_clear_error_without_them(
    place: Any, repository: Path, serve_git: Serve
) -> None:
    """Git does not ask a terminal, and the words it leaves are redacted."""
    with serve_git(repository.parent, user="me", password="right") as port:
        url = f"http://me:${{PASS}}@127.0.0.1:{port}/{repository.name}"
        with pytest.raises(WorkspaceSeedFailed, match="git clone failed") as caught:
            await place.seed(git=url, value=lambda _: PASSWORD)
    assert PASSWORD not in str(caught.value)
    assert "Authentication failed" in str(caught.value)
    assert (place.files, place.leftovers) == ([], [])


async def test_a_missing_secret_is_named_before_git_starts(place: Any) -> None:
    """The error is the store's own."""
    with pytest.raises(SecretUnavailable, match="TOKEN has no value"):
        await place.seed(git="https://${TOKEN}@127.0.0.1:9/r.git")
    assert (place.files, place.leftovers) == ([], [])


async def test_credentials_are_for_their_own_host_alone(
    place: Any, repository: Path, serve_git: Serve, serve_redirect: Serve
) -> None:
    """A server that sends git elsewhere does not get them sent there."""
    heard: list[str] = []
    with serve_git(repository.parent, user="me", password=PASSWORD, asked=lambda: heard.append("there")) as elsewhere:
        target = f"http://localhost:{elsewhere}/{repository.name}"
        with serve_redirect(target) as port, pytest.raises(RunnerError, match="git clone failed"):
            await place.seed(git=f"http://me:${{PASS}}@127.0.0.1:{port}/r.git", value=lambda _: PASSWORD)
    assert heard == []


async def test_a_clone_that_is_cancelled_or_too_slow_leaves_no_process(place: Any, serve_silence: Serve) -> None:
    """Git and its helpers are killed together."""
    with serve_silence() as port:
        url = f"http://127.0.0.1:{port}/r.git"
        place.settings = {"seed_timeout": 0.5}
        with pytest.raises(WorkspaceSeedFailed, match=r"longer than 0\.5 s"):
            await place.seed(git=url)
        place.settings = {}
        with anyio.move_on_after(0.5) as scope:
            await place.seed(git=url)
        assert scope.cancelled_caught
        assert secrets_seen(url) == []
    assert (place.files, place.leftovers) == ([], [])


async def test_an_agents_own_secret_opens_the_repository_and_stays_nowhere(
    house: Any, repository: Path, serve_git: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a spec's reference through the manager to a seeded workspace; no file of the data folder has the value, the database included."""
    monkeypatch.setenv("PLANTED_GIT_TOKEN", PASSWORD)
    with serve_git(repository.parent, user="me", password=PASSWORD) as port:
        spec = AgentSpec(
            agent_id="alice",
            model="fake/demo",
            secrets={"TOKEN": "env:PLANTED_GIT_TOKEN"},
            workspace=Workspace(git=f"http://me:${{TOKEN}}@127.0.0.1:{port}/{repository.name}", depth=1),
        )
        async with house.manager() as manager:
            await manager.create_runner(spec)
            await manager.start_runner("alice")
    assert (house.data_dir / "workspace" / "alice" / "README.md").read_text() == "three"
    for path in house.data_dir.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()
