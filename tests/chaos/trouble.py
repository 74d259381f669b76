"""The process that does harm. It owns the engine and the small disk, and draws one fault after the other, the same ones for the same seed.

What it did goes as lines of JSON to standard output; each line on standard input asks for one more, the line ``leave`` for the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import docker

from cnap_runner.model.instance import LABEL_AGENT
from cnap_runner.testing.engine_proxy import EngineProxy
from cnap_runner.testing.private_engine import PrivateEngine
from tests.chaos.places import DISK_MB, ENGINE, IMAGE, Places

MIB = 1 << 20


def say(**line: Any) -> None:
    """Say a line, to whoever still listens."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (json.dumps(line) + "\n").encode())


class Trouble:
    """One hand that does harm, and takes back what does not end by itself."""

    def __init__(self, places: Places, engine: PrivateEngine, proxy: EngineProxy, seed: int) -> None:
        self._places = places
        self._engine = engine
        self._proxy = proxy
        self._chance = random.Random(seed)  # noqa: S311 - to be repeatable
        self._faults: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "nothing (for comparison)": (2, self._nothing),
            "manager killed": (4, self._kill_manager),
            "manager frozen": (2, self._freeze_manager),
            "container killed": (4, self._kill_container),
            "container removed": (2, self._remove_container),
            "container frozen": (2, self._freeze_container),
            "engine killed": (2, self._kill_engine),
            "engine frozen": (2, self._freeze_engine),
            "power cut": (1, self._power_cut),
            "streams of the engine cut": (2, self._cut_engine),
            "streams of an agent cut": (3, self._cut_agent),
            "port of an agent dead": (2, self._kill_port),
            "disk full": (1, self._fill_disk),
        }
        self._first = list(self._faults)
        self._chance.shuffle(self._first)

    async def strike(self) -> None:
        """Do harm once, and take back what does not end by itself. Each kind comes once before any comes twice; then by weight."""
        weights = [weight for weight, _ in self._faults.values()]
        kind = self._first.pop() if self._first else self._chance.choices(list(self._faults), weights)[0]
        try:
            await self._faults[kind][1]()
        except Exception as error:  # noqa: BLE001 - a victim may be gone by itself; the run goes on
            say(missed=kind, because=repr(error))

    def _done(self, kind: str, *, agents: list[str] | None = None, worker: str | None = None) -> None:
        """Say what is about to be done: to these agents, to all that a worker has in hand, or to everybody."""
        say(fault=kind, at=time.time(), agents=agents, worker=worker)

    # --- managers ---

    async def _nothing(self) -> None:
        self._done("nothing (for comparison)", agents=[self._chance.choice(await self._agents())[0]])

    def _worker(self) -> tuple[str, int]:
        path = self._chance.choice(sorted(self._places.workers.iterdir()))
        return path.stem, int(path.read_text())

    async def _kill_manager(self) -> None:
        name, pid = self._worker()
        self._done("manager killed", worker=name)
        (self._places.workers / f"{name}.pid").unlink(missing_ok=True)
        os.kill(pid, signal.SIGKILL)

    async def _freeze_manager(self) -> None:
        name, pid = self._worker()
        self._done("manager frozen", worker=name)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(self._chance.uniform(2, 6))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    # --- containers ---

    async def _agents(self) -> list[tuple[str, str]]:
        """Agents with a running container, and its id."""

        def look() -> list[tuple[str, str]]:
            with self._engine.client() as client:
                seen = client.api.containers(filters={"status": "running", "label": LABEL_AGENT})
            return sorted((one["Labels"][LABEL_AGENT], one["Id"]) for one in seen)

        return await asyncio.to_thread(look)

    async def _on_container(self, kind: str, deed: Callable[[docker.APIClient, str], object]) -> None:
        agent_id, container = self._chance.choice(await self._agents())

        def act() -> None:
            with self._engine.client() as client:
                deed(client.api, container)

        self._done(kind, agents=[agent_id])
        await asyncio.to_thread(act)

    async def _kill_container(self) -> None:
        await self._on_container("container killed", lambda engine, container: engine.kill(container))

    async def _remove_container(self) -> None:
        await self._on_container(
            "container removed", lambda engine, container: engine.remove_container(container, force=True)
        )

    async def _freeze_container(self) -> None:
        agent_id, container = self._chance.choice(await self._agents())

        def inside() -> list[int]:
            with self._engine.client() as client:
                return [int(line[1]) for line in client.api.top(container)["Processes"]]

        pids = await asyncio.to_thread(inside)
        self._done("container frozen", agents=[agent_id])
        for number, pause in ((signal.SIGSTOP, self._chance.uniform(2, 5)), (signal.SIGCONT, 0)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            await asyncio.sleep(pause)

    async def _port(self) -> tuple[str, str]:
        agent_id, container = self._chance.choice(await self._agents())

        def look() -> str:
            with self._engine.client() as client:
                ports = client.api.inspect_container(container)["NetworkSettings"]["Ports"]
            return next(str(one[0]["HostPort"]) for one in ports.values() if one)

        return agent_id, await asyncio.to_thread(look)

    async def _cut_agent(self) -> None:
        agent_id, port = await self._port()
        self._done("streams of an agent cut", agents=[agent_id])
        argv = ("ss", "-K", "state", "established", "dport", "=", f":{port}")
        await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False)

    async def _kill_port(self) -> None:
        agent_id, port = await self._port()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"docker-proxy") and port.encode() in words:
                    self._done("port of an agent dead", agents=[agent_id])
                    os.kill(int(folder.name), signal.SIGKILL)

    # --- the engine and the disk ---

    async def _kill_engine(self) -> None:
        self._done("engine killed")
        await asyncio.to_thread(self._engine.kill)
        await asyncio.sleep(self._chance.uniform(0, 4))
        await asyncio.to_thread(self._engine.start)

    async def _freeze_engine(self) -> None:
        self._done("engine frozen")
        self._engine.freeze()
        await asyncio.sleep(self._chance.uniform(2, 6))
        self._engine.thaw()

    async def _power_cut(self) -> None:
        self._done("power cut")
        await asyncio.to_thread(self._engine.kill_with_containers)
        await asyncio.to_thread(self._engine.start)

    async def _cut_engine(self) -> None:
        self._done("streams of the engine cut")
        self._proxy.cut()

    async def _fill_disk(self) -> None:
        left = self._chance.choice([0, 0, 100 << 20])
        size = shutil.disk_usage(self._places.disk).free - left
        self._done("disk full")
        try:
            with self._places.ballast.open("wb") as ballast, contextlib.suppress(OSError):
                # Piece by piece: others write meanwhile, and what does not fit at once would not be taken at all.
                for _ in range(0, size, MIB):
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, MIB)
            await asyncio.sleep(self._chance.uniform(2, 5))
        finally:
            self._places.ballast.unlink()


async def main(folder: str, seed: str) -> None:
    places = Places(Path(folder))
    with PrivateEngine(ENGINE) as engine:
        await asyncio.to_thread(engine.load, IMAGE)
        places.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", places.disk], check=True)
        try:
            async with EngineProxy(engine.socket, places.socket) as proxy:
                say(ready="trouble", engine=engine.host)
                await obey(Trouble(places, engine, proxy, int(seed)))
        finally:
            subprocess.run(["umount", "--lazy", places.disk], check=True)


async def obey(trouble: Trouble) -> None:
    """Strike when told to, until told to leave or left alone."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "leave":
            return
        await trouble.strike()
        say(done=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
