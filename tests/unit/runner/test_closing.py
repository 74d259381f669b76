"""How a manager is left: by an error, or with an agent that somebody else has; on fakes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from cnap_runner import AgentSpec, Outcome, RunRequest, RunResult
from cnap_runner.model.counts import CONTAINERS_CREATED
from cnap_runner.runner import manager as public
from cnap_runner.runner import parts
from cnap_runner.settings import Settings
from cnap_runner.sync import RunnerManager
from cnap_runner.testing.fake_opencode.script import Hold, Say

Ask = Callable[..., RunRequest]


async def test_a_manager_that_is_left_by_an_error_waits_for_no_turn(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """The turns under way are aborted at once, and the error goes on as it is."""
    house.script([Say("busy"), Hold()])
    results: list[RunResult] = []

    async def leave(tasks: TaskGroup) -> None:
        async with house.manager() as manager:
            runner = await manager.create_runner(spec)

            async def run() -> None:
                results.append(await runner.run(ask()))

            tasks.start_soon(run)
            while not house.prompts:
                await anyio.sleep(0.01)
            raise KeyError("mine")

    with anyio.fail_after(8):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(KeyError):
                await leave(tasks)
    assert [result.outcome for result in results] == [Outcome.ABORTED]


async def test_what_leaves_a_manager_stays_what_it_is(house: Any) -> None:
    """A group of errors is not opened, and nothing is put into one."""
    mine = BaseExceptionGroup("mine", [KeyError("inside")])
    with pytest.raises(BaseExceptionGroup) as caught:
        async with house.manager():
            raise mine
    assert caught.value is mine


def test_the_blocking_front_tells_its_manager_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So its turns are aborted at once, too."""
    heard: list[object] = []
    leave = public.RunnerManager.__aexit__

    async def left(self: public.RunnerManager, *exc_info: Any) -> None:
        heard.append(exc_info[0])
        await leave(self, *exc_info)

    monkeypatch.setattr(public.RunnerManager, "__aexit__", left)
    with pytest.raises(KeyError), RunnerManager(Settings(data_dir=tmp_path / "data", backend="process")):
        raise KeyError("mine")
    assert heard == [KeyError]


async def test_an_agent_that_somebody_has_keeps_no_manager_from_signing_off(
    house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an agent cannot be stopped in time, the manager's row goes all the same, and its last counts are stored."""
    monkeypatch.setattr(parts, "SIGN_OFF", timedelta(seconds=1))
    async with house.manager() as other:
        async with house.manager(shutdown_timeout=1.5) as manager:
            closing = manager.parts.install.manager_id
            await (await manager.create_runner(spec)).run(ask())
            install = other.parts.install
            assert await install.store.acquire_lease(
                "alice", install.manager_id, "export", at=install.now(), is_alive=install.is_alive
            )
            before = (await manager.metrics()).containers_created
            manager.parts.install.metrics.count(CONTAINERS_CREATED)
        assert (await other.metrics()).containers_created == before + 1
    with sqlite3.connect(house.data_dir / "runner.db") as store:
        assert (closing,) not in store.execute("SELECT manager_id FROM managers").fetchall()
    store.close()
