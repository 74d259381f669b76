"""An agent's story on the real engine: what happened to it by itself is told in order, with what it was decided by."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from cnap_runner import AgentSpec, Message, RunnerManager, RunnerStatus, RunRequest, Settings
from cnap_runner.errors import RunnerError
from cnap_runner.model.diary import diary
from cnap_runner.model.journal import DecisionKind as K
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

MEMORY_MB = 1024
EATER = "x = bytearray(100 << 20); import time; time.sleep(300)"
"""Many of these make the server the largest process, so that it is what the kernel ends."""


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[RunnerManager]:
    """A manager that stops what is idle after a second."""
    settings = Settings(
        data_dir=tmp_path / "data",
        pause_after=None,
        idle_timeout="2s",
        sweep_interval="1s",
        memory_mark_percent=None,  # A sweep in the moment before the kernel acts would replace it, for its memory.
        start_timeout="2m",
        health_timeout="2m",
        fetch_models=False,
    )
    async with RunnerManager(settings) as manager:
        try:
            yield manager
        finally:
            with anyio.CancelScope(shield=True):
                await manager.purge()


async def becomes(manager: RunnerManager, status: RunnerStatus) -> None:
    with anyio.fail_after(120):
        while (await manager.get_runner("alice")).status is not status:
            await anyio.sleep(0.1)


async def test_idle_stopped_woken_out_of_memory_and_recovered_reads_like_a_diary(manager: RunnerManager) -> None:
    """Each step is one entry with its reason; the kernel's verdict comes with the limit."""
    async with ScriptedModel(host="0.0.0.0") as model:
        provider = model.provider_config(host="host.docker.internal")
        spec = AgentSpec(agent_id="alice", model=model.model, opencode=provider, resources={"memory_mb": MEMORY_MB})
        runner = await manager.create_runner(spec)
        hello = RunRequest(messages=[Message(role="user", content="say: hello")])
        assert (await runner.run(hello)).success
        await becomes(manager, RunnerStatus.STOPPED)
        await manager.create_runner(
            spec.model_copy(update={"life": spec.life.model_copy(update={"idle_timeout": timedelta(hours=1)})})
        )
        woken = await runner.run(hello)
        with contextlib.suppress(RunnerError, TimeoutError):
            await runner.exec(["sh", "-c", f"for n in $(seq 40); do python3 -IS -c '{EATER}' & done; wait"])
        await becomes(manager, RunnerStatus.FAILED)
        await manager.recover_runner("alice")
        await becomes(manager, RunnerStatus.READY)
    told = await runner.explain()
    kinds = [decision.kind for decision in told if decision.kind is not K.CHANGED]
    assert kinds == [K.CREATED, K.STARTED, K.STOPPED_IDLE, K.STARTED, K.OOM_KILLED, K.STARTED, K.RECOVERED]
    by_kind = {decision.kind: decision for decision in told}
    assert "nothing to do" in by_kind[K.STOPPED_IDLE].reason
    assert told[kinds.index(K.STARTED, 2) + 1].evidence["run_id"] == woken.run_id
    assert by_kind[K.OOM_KILLED].evidence["memory_limit_mb"] == MEMORY_MB
    assert [entry.title for day in diary(told, zone=None) for entry in day.entries][-2:] == ["Started", "Recovered"]
