"""Faults are done to real parts: processes that are killed, containers that die, an engine that is not there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cnap_runner import wiring
from cnap_runner.model.instance import LABEL_INSTALL
from cnap_runner.settings import Settings
from cnap_runner.testing.house import House
from cnap_runner.testing.private_engine import PrivateEngine, why_not
from cnap_runner.testing.scripted_model import ScriptedModel

DRIVER = Path(__file__).with_name("driver.py")
GUARD = 60
"""Seconds after which a test that waits for something has hung."""


@pytest.fixture(
    scope="module"
)  # not longer: the event loop it runs on would be in the way of tests that have their own
async def model() -> AsyncIterator[ScriptedModel]:
    """The scripted model, where containers reach it."""
    async with ScriptedModel(host="0.0.0.0") as server:
        yield server


@pytest.fixture(scope="session")
def private_engine() -> Iterator[PrivateEngine]:
    """An engine that tests may kill, with the agents' image."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with PrivateEngine("tests") as engine:
        engine.load("cnap-runner:latest")
        yield engine


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """An install on fakes."""
    house = House(tmp_path / "data")
    monkeypatch.setattr(wiring, "make_backend", lambda _: house.backend)
    yield house
    for server in house.servers.values():
        await server.kill()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An install of its own on the real engine; nothing of it is left afterwards."""
    settings = Settings(data_dir=tmp_path / "data", fetch_models=False)
    yield settings
    sweep(settings.data_dir)


@pytest.fixture
def spec(model: ScriptedModel) -> dict[str, Any]:
    """An agent that uses the scripted model."""
    return {
        "agent_id": "alice",
        "model": model.model,
        "opencode": model.provider_config(host="host.docker.internal"),
    }


def sweep(data_dir: Path) -> None:
    """Remove what an install left on the engine, found by its label alone."""
    if not (data_dir / "runner.db").exists():
        return
    with contextlib.closing(sqlite3.connect(data_dir / "runner.db")) as database:
        row = database.execute("SELECT install_id FROM install").fetchone()
    if row is None:
        return
    with contextlib.closing(docker.from_env()) as engine:
        mine: dict[str, str | list[str] | bool] = {"label": f"{LABEL_INSTALL}={row[0]}"}
        for container in engine.containers.list(all=True, filters=mine):
            container.remove(force=True)
        for network in engine.networks.list(filters=mine):
            network.remove()


class Driver:
    """The user's program in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next_line(self, **wanted: Any) -> dict[str, Any]:
        """Read lines until one has these values."""
        assert self._process.stdout is not None
        async with asyncio.timeout(GUARD):
            while line := await self._process.stdout.readline():
                said: dict[str, Any] = json.loads(line)
                if all(said.get(name) == value for name, value in wanted.items()):
                    return said
        raise AssertionError(f"The program ended without saying {wanted}.")

    async def kill(self) -> None:
        """End it as a crash or a cruel operator would."""
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def ended(self) -> None:
        """Wait until it has ended by itself."""
        async with asyncio.timeout(GUARD):
            await self._process.wait()


@pytest.fixture
async def drive(settings: Settings, spec: dict[str, Any]) -> AsyncIterator[Any]:
    """Start the user's program for one run."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(prompt: str, *, settings_too: dict[str, Any] | None = None, **request: Any) -> Driver:
        order = {
            "settings": {"data_dir": str(settings.data_dir), "fetch_models": False, **(settings_too or {})},
            "spec": spec,
            "request": {"messages": [{"role": "user", "content": prompt}], **request},
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(DRIVER), json.dumps(order), stdout=asyncio.subprocess.PIPE
        )
        processes.append(process)
        return Driver(process)

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
