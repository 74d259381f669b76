"""A manager's metrics, on fakes: counted in the store, shown in a registry, served at one port."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cnap_runner import AgentSpec, RunnerManager, RunRequest, Settings
from cnap_runner.errors import InvalidInput, RunnerNotFound, StoreBusy
from cnap_runner.model.counts import ERRORS, QUEUE_WAIT, TOKENS
from cnap_runner.runner.metering import metering
from cnap_runner.telemetry.metrics.server import serving
from cnap_runner.testing.fake_opencode.script import Say
from cnap_runner.testing.house import House

Ask = Callable[..., RunRequest]


async def test_a_run_shows_in_the_registry_of_any_manager(house: House, spec: AgentSpec, ask: Ask) -> None:
    """The figures are the install's: one manager works, another one, without a port, shows."""
    registry = CollectorRegistry()
    house.script([Say("hi")])
    async with house.manager() as worker, house.manager(is_observer=True, registry=registry) as shower:
        runner = await worker.create_runner(spec)
        assert (await runner.run(ask())).success
        text = generate_latest(registry).decode()
        assert 'cnap_runner_runs_total{outcome="succeeded"} 1.0' in text
        assert 'cnap_runner_runners{status="ready"} 1.0' in text
        assert "cnap_runner_containers_started_total 1.0" in text
        await shower._usable().metering.sampler.measure()
        assert "cnap_runner_containers_measured 1.0" in generate_latest(registry).decode()
    assert generate_latest(registry) == b""


async def test_an_agent_s_own_model_and_one_asked_for_are_counted_under_their_names(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Of others a server may name as many as it likes."""
    runner = await manager.create_runner(spec)
    named = {(await runner.run(each)).model for each in (ask(), ask(model="fake/another"))}
    tally = await manager._usable().install.store.tally()
    assert named == {spec.model, "fake/another"}
    assert {"/".join(labels[:2]) for labels in TOKENS.in_counts(tally.counts)} == named


async def test_the_snapshot_is_that_of_the_install_s_life(house: House, spec: AgentSpec, ask: Ask) -> None:
    """A manager that did nothing tells what earlier ones did, and what was counted a moment ago is in it."""
    house.script([Say("hi")])
    async with house.manager() as worker:
        runner = await worker.create_runner(spec)
        await runner.run(ask())
        seen = await worker.metrics()
        assert (seen.containers_created, seen.containers_started) == (1, 1)
        assert (seen.tasks_executed, seen.tasks_succeeded, seen.tasks_failed) == (1, 1, 0)
        assert seen.avg_execution_time_ms > 0
        with pytest.raises(RunnerNotFound):
            await worker.get_runner("nobody")
    async with house.manager(is_observer=True) as later:
        after = await later.metrics()
        assert (after.tasks_succeeded, after.containers_stopped, after.errors_total) == (1, 1, 0)


async def test_what_cannot_be_stored_now_is_stored_later(
    manager: RunnerManager, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is busy loses no count, and keeps no manager from closing."""
    parts = manager._usable()

    async def fail(_: object) -> None:
        raise StoreBusy("It is busy.")

    parts.install.metrics.count(ERRORS, "aborted")
    with monkeypatch.context() as patch:
        patch.setattr(parts.install.store, "add_counts", fail)
        with pytest.raises(StoreBusy):
            await parts.metering.store()
        await parts.metering.store_rest()
    assert (await manager.metrics()).errors_total == 1


async def test_a_refused_run_is_counted_by_its_code(
    house: House, manager: RunnerManager, spec: AgentSpec, ask: Ask
) -> None:
    """Although the ledger may know nothing of it."""
    runner = await manager.create_runner(spec)
    await manager.delete_runner("alice")
    with pytest.raises(RunnerNotFound):
        await runner.run(ask())
    await manager.metrics()
    tally = await manager._usable().install.store.tally()
    assert ERRORS.in_counts(tally.counts) == {("runner_not_found",): 1}
    assert QUEUE_WAIT.in_counts(tally.counts).count == 0


async def test_one_manager_serves_and_the_next_one_follows(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two managers of one install may be told the same port: that is no mistake. The containers are measured by the one that serves."""
    monkeypatch.setattr(metering, "TRY_AGAIN", metering.TRY_AGAIN / 100)
    port = await _free_port()
    caplog.set_level(logging.INFO, "cnap_runner")
    opened, leave = anyio.Event(), anyio.Event()

    async def first() -> None:
        async with house.manager(metrics_port=port) as serving:
            await _until(lambda: serving._usable().metering.sampler.sample.at is not None)
            opened.set()
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await opened.wait()
        assert str(port) in caplog.text
        async with house.manager(metrics_port=port) as second:
            sampler = second._usable().metering.sampler
            assert "cnap_runner_store_up 1.0" in await _scrape(port)
            await anyio.sleep(0.2)
            assert sampler.sample.at is None
            leave.set()
            with anyio.fail_after(10):
                while caplog.text.count("metrics_served") < 2 or "cnap_runner_store_up 1.0" not in await _scrape(port):
                    await anyio.sleep(0.05)
            await _until(lambda: sampler.sample.at is not None)


async def test_a_port_of_another_program_keeps_a_manager_from_opening(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asked for metrics would otherwise believe that they are there. A keeper in the background goes on: agents need it."""
    async with serving(CollectorRegistry(), 0) as port:
        with pytest.raises(InvalidInput, match="cannot be served"):
            async with house.manager(metrics_port=port):
                pass
        async with house.manager(metrics_port=port, is_observer=True) as observer:
            assert await observer.list_runners() == []
        settings = Settings(data_dir=house.data_dir, metrics_port=port)
        with caplog.at_level("WARNING", logger="cnap_runner"):
            async with RunnerManager(settings, must_serve=False):
                assert "metrics_not_served" in caplog.text


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.02)


async def _free_port() -> int:
    async with serving(CollectorRegistry(), 0) as port:
        return port


async def _scrape(port: int) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        except httpx.ConnectError:
            return ""
