"""A crowd: an install with many known agents, some of them with instances, on the backend in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio.to_thread
from prometheus_client import CollectorRegistry

from cnap_runner import AgentSpec, Settings
from cnap_runner.model.instance import InstanceRef, InstanceSpec, Limits
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install
from cnap_runner.runner.manager import RunnerManager
from cnap_runner.store import sqlite
from cnap_runner.store.codec import runner_values
from cnap_runner.store.schema import agents
from cnap_runner.store.transactions.agents import put
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.backend_harness import secrets
from cnap_runner.wiring import load_template, make_exposure, open_install

_LIMITS = Limits(memory_bytes=2 << 30, cpus=2.0, pids=512)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who is known, and where their instances live."""

    settings: Settings
    backend: FakeBackend
    registry: CollectorRegistry

    def manager(self) -> RunnerManager:
        """Make one more manager of the install; it shows the install's metrics in `registry`."""
        return RunnerManager(self._opened, lambda: load_template(self.settings.data_dir), is_observer=False)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Install]:
        async with open_install(self.settings, exposure=make_exposure(self.settings, self.registry)) as install:
            yield replace(install, backend=self.backend)


async def gather(data_dir: Path, *, known: int, live: int) -> Crowd:
    """Make a crowd in an empty folder: ``known`` agents, the first ``live`` of them ready since a moment ago."""
    settings = Settings(data_dir=data_dir, max_containers=max(live, 1), idle_timeout=None, on_shutdown="leave")
    crowd = Crowd(settings, FakeBackend(), CollectorRegistry())
    async with open_install(settings) as install:
        records = [await _live(crowd.backend, install, _name(number)) for number in range(live)]
    await anyio.to_thread.run_sync(_write, data_dir / "runner.db", known, records)
    return crowd


async def _live(backend: FakeBackend, install: Install, agent_id: str) -> RunnerRecord:
    spec = InstanceSpec(
        install_id=install.install_id,
        agent_id=agent_id,
        instance_id=f"i-{agent_id}",
        generation=1,
        spec_hash="crowd",
        image=install.settings.image,
        limits=_LIMITS,
        volumes=(),
    )
    ref: InstanceRef = await backend.create(spec)
    endpoint = await backend.start(ref, secrets=secrets())
    at = datetime.now(UTC)
    starting = RunnerRecord(agent_id).start_intended(instance_id=ref.instance_id, spec_hash=spec.spec_hash, at=at)
    return starting.created(ref).became_ready(endpoint=endpoint, at=at).settled(settings_hash=None, limits=_LIMITS)


def _write(path: Path, known: int, records: list[RunnerRecord]) -> None:
    """In one transaction: ten thousand of a store's own would wait ten thousand times for the disk."""
    at = datetime.now(UTC)
    connection = sqlite.connect(path, "write", busy_timeout=timedelta(seconds=10))
    with connection, connection.begin():
        for number in range(known):
            put(connection, _spec(number), at=at)
        for record in records:
            row = agents.update().where(agents.c.agent_id == record.agent_id)
            connection.execute(row.values(runner_values(record)))


def _name(number: int) -> str:
    return f"agent-{number:05}"


def _spec(number: int) -> AgentSpec:
    """Describe an agent as people do: some lines of prompt, a limit, a label, a setting of OpenCode's."""
    return AgentSpec(
        agent_id=_name(number),
        model="anthropic/claude-sonnet-4-5",
        system_prompt=f"You are number {number}. " + "Be brief, test what you write, and say what you did not do. " * 5,
        resources={"memory_mb": 2048},
        labels={"team": f"team-{number % 20}"},
        life={"max_run_time": "20m"},
        opencode={"agent": {"build": {"temperature": 0.2}}},
    )
