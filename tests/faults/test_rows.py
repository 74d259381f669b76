"""Rows of FAILURES.md that need no engine: the real store and the real parts of a manager, on instances in memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunnerStatus, RunRequest, wiring
from cnap_runner.errors import RunnerError, ServerNotReady, UnsupportedServerVersion
from cnap_runner.testing.fake_opencode import BrokenDatabaseOpenCode, Version2OpenCode
from cnap_runner.testing.house import House
from cnap_runner.testing.private_engine import why_not

DISK_MB = 64
ALICE = AgentSpec(agent_id="alice", model="fake/demo")


def ask(prompt: str = "hello", key: str | None = None) -> RunRequest:
    return RunRequest(messages=[Message(role="user", content=prompt)], idempotency_key=key)


async def test_f06_a_deadline_outlives_the_manager_that_set_it(house: House) -> None:
    """It is in the store: a manager that begins when it is over acts on it, though it never saw the agent at work."""
    async with house.manager(on_shutdown="leave", idle_timeout=300, pause_after=None) as first:
        await (await first.create_runner(ALICE)).run(ask())
    assert house.backend.live("alice")
    async with house.manager(on_shutdown="leave", idle_timeout=300, pause_after=None) as second:
        later = datetime.now(UTC) + timedelta(seconds=301)
        object.__setattr__(second.parts.install, "now", lambda: later)
        await second.parts.keeper.keep_due()
        assert (await second.get_runner("alice")).status is RunnerStatus.STOPPED
    assert not house.backend.live("alice")


async def test_f11_no_prompt_goes_to_a_server_that_only_calls_itself_healthy(house: House) -> None:
    """Its health call is fine and every other call fails: the start fails with that, and nothing of it is left."""
    house.make_server = BrokenDatabaseOpenCode
    async with house.manager(health_timeout=0.3, max_retries=0) as manager:
        runner = await manager.create_runner(ALICE)
        with pytest.raises(ServerNotReady):
            await runner.run(ask())
    assert house.prompts == []
    assert not house.backend.live("alice")


async def test_f25_a_server_of_another_version_is_named_before_anything_else_fails(house: House) -> None:
    """One that a later major version's is refused at the handshake, and not tried again."""
    house.make_server = Version2OpenCode
    async with house.manager() as manager:
        runner = await manager.create_runner(ALICE)
        with pytest.raises(UnsupportedServerVersion):
            await runner.run(ask())
    assert house.starts == ["alice"]
    assert not house.backend.live("alice")


async def test_f26_an_agent_of_a_name_used_before_inherits_no_life(house: House) -> None:
    """What is told of the instance of the one before is not told of the new one's: it goes on."""
    async with house.manager() as manager:
        await (await manager.create_runner(ALICE)).run(ask())
        before = (await manager.get_runner("alice")).record
        await manager.delete_runner("alice", delete_workspace=True)
        runner = await manager.create_runner(ALICE)
        await runner.run(ask())
        after = (await manager.get_runner("alice")).record
        assert after.instance_id != before.instance_id
        manager.parts.instances.note_death(before.instance_id or "", "its predecessor ended")
        store = manager.parts.install.store
        assert not await store.note_death("alice", before.instance_id or "", reason="late", at=datetime.now(UTC))
        assert (await runner.run(ask("on"))).output == "ON"
        assert house.starts == ["alice", "alice"]


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    if (reason := why_not()) is not None:
        pytest.skip(reason.replace("a private engine", "a disk of its own"))
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "small", mount], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


async def test_f21_a_full_disk_refuses_what_needs_room_and_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte is left for the store: a run is refused with an error of ours. With room again the same call does it, once."""
    house = House(small_disk / "data")
    monkeypatch.setattr(wiring, "make_backend", lambda _: house.backend)
    async with house.manager(host_reserve_mb=4) as manager:
        runner = await manager.create_runner(ALICE)
        assert (await runner.run(ask("before"))).success
        ballast = small_disk / "ballast"
        fill(ballast)
        with pytest.raises(RunnerError) as caught:
            await runner.run(ask("in between", key="k"))
        assert caught.value.code in {"quota_exceeded", "store_error", "store_busy", "insufficient_resources"}
        ballast.unlink()
        result = await usable(manager, "in between")
        assert result == "IN BETWEEN"
        assert house.prompts == ["before", "in between"]
    for server in house.servers.values():
        await server.kill()


def fill(ballast: Path) -> None:
    """Write until nothing more can be written."""
    piece = b"\0" * 4096
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(piece):
                pass
    except OSError:
        return


async def usable(manager: RunnerManager, prompt: str) -> str:
    """Ask by the same key until it is done; what was not stored while the disk was full may take a moment."""
    with anyio.fail_after(30):
        while True:
            try:
                return (await (await manager.get_runner("alice")).run(ask(prompt, key="k"))).output
            except RunnerError:
                await anyio.sleep(0.1)
