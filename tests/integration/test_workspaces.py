"""A workspace in a real container: seeded, shared with the host, and kept within its limits."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from cnap_runner import AgentSpec, Message, Resources, RunnerManager, RunnerStatus, RunRequest, Settings, Workspace
from cnap_runner.errors import QuotaExceeded
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

MIB = 1 << 20
GREEDY = "while dd if=/dev/zero bs=1M count=4 2>/dev/null >> {name}; do sleep 0.1; done"


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A model where containers reach it."""
    async with ScriptedModel(host="0.0.0.0") as scripted:
        yield scripted


def ask(prompt: str) -> RunRequest:
    return RunRequest(messages=[Message(role="user", content=prompt)])


async def test_f21_an_agent_that_fills_the_disk_is_frozen_aborted_and_stopped(
    tmp_path: Path, runner_image: str, model: ScriptedModel
) -> None:
    """Its turn ends as ``quota_exceeded``, soon after the ceiling; a process it left behind is ended with its instance; no turn begins
    until there is room. Before that: what it was seeded with, and what root put there, it can change."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("seed ")
    spec = AgentSpec(
        agent_id="alice",
        model=model.model,
        opencode=model.provider_config(host="host.docker.internal"),
        workspace=Workspace(copy=source),
        resources=Resources(disk_mb=64),
    )
    settings = Settings(data_dir=tmp_path / "data", image=runner_image, fetch_models=False)
    workspace = settings.data_dir / "workspace" / "alice"
    async with RunnerManager(settings) as manager, AsyncExitStack() as stack:
        stack.push_async_callback(manager.purge)
        runner = await manager.create_runner(spec)
        await manager.start_runner("alice")
        (workspace / "by-host").write_text("host ")
        written = await runner.run(ask("bash: echo agent | tee -a sub/file by-host\nsay: done"))
        assert written.success, written.error
        assert (workspace / "sub" / "file").read_text() == "seed agent\n"
        assert (workspace / "by-host").read_text() == "host agent\n"
        if os.geteuid() == 0:
            assert (workspace / "sub" / "file").stat().st_uid == 10000

        left_behind = f"setsid sh -c '{GREEDY.format(name='background')}' >/dev/null 2>&1 &"
        result = await runner.run(ask(f"bash: {left_behind} {GREEDY.format(name='big')}\nsay: not reached"))
        assert (result.outcome, result.error and result.error.code) == ("failed", "quota_exceeded")
        assert result.error is not None
        assert "hard ceiling of 96 MiB (its quota is 64 MiB)" in result.error.message
        assert 96 * MIB < (await manager.measure_workspace("alice")).total_bytes < 1024 * MIB

        with anyio.fail_after(30):
            while (await manager.get_runner("alice")).status is not RunnerStatus.STOPPED:
                await anyio.sleep(0.1)
        assert "went on writing" in str((await manager.get_runner("alice")).record.reason)
        with pytest.raises(QuotaExceeded, match="Agent alice uses"):
            await runner.run(ask("say: no"))
        await manager.delete_runner("alice", delete_workspace=True)
        assert not workspace.exists()
