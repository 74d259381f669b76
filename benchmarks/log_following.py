"""What following the output of 100 containers costs: threads, CPU and memory. ``python -m benchmarks.log_following``.

Beside it the way of the engine's Python SDK, which takes a thread for each stream and does nothing with the lines but write them to a
file; ours also parses, redacts, joins what another manager began, and rotates. The engine is a fake one, so that only the following is measured.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import docker

from benchmarks.machine import load, warning
from cnap_runner import Settings
from cnap_runner.model.instance import InstanceRef
from cnap_runner.runner.collectors.following import LogCollectors
from cnap_runner.runner.collectors.segments import oldest_first, segments_in
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.wiring import open_install

SETTLE_SECONDS = 3.0
RATES = (0, 1, 20)
"""Lines that each container prints per second."""


@dataclass(frozen=True)
class Cost:
    """What one subject cost at one rate."""

    threads: int
    cpu_percent: float
    lines: int

    def text(self, name: str, rate: float) -> str:
        return f"{name:<12} {rate:>6g} {self.threads:>9} {self.cpu_percent:>8.1f} {self.lines:>10}"


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="What following many containers' output costs.")
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--child", nargs=3, metavar=("SUBJECT", "SOCKET", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        subject, address, folder = options.child
        _measure(subject, f"unix://{address}", Path(folder), containers=options.containers, seconds=options.seconds)
        return 0
    if told := warning(load()):
        sys.stderr.write(f"{told}\n")
    print(f"{options.containers} containers, {options.seconds:g} s each\n")
    print(f"{'':<12} {'lines/s':>6} {'threads':>9} {'CPU %':>8} {'lines':>10}")
    for rate in RATES:
        for subject in ("cnap_runner", "SDK"):
            with tempfile.TemporaryDirectory() as folder, _engine(Path(folder), rate) as address:
                done = subprocess.run(
                    [
                        *(sys.executable, "-m", "benchmarks.log_following", "--child", subject, address, folder),
                        *("--containers", str(options.containers), "--seconds", str(options.seconds)),
                    ],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                threads, cpu, lines = done.stdout.split()
                print(Cost(int(threads), float(cpu), int(lines)).text(subject, rate), flush=True)
    return 0


@contextmanager
def _engine(folder: Path, rate: float) -> Iterator[str]:
    address = str(folder / "engine.sock")
    command = [sys.executable, "-m", "benchmarks.chatty_engine", address, str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield address
        finally:
            process.terminate()


def _measure(subject: str, host: str, folder: Path, *, containers: int, seconds: float) -> None:
    """Follow with one subject and print what it cost: threads beyond the first, percent of a core, lines written."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    ids = [f"agent-{number:03d}" for number in range(containers)]
    if subject == "SDK":
        _follow_by_sdk(host, folder, ids, seconds)
    else:
        os.environ["DOCKER_HOST"] = host
        anyio.run(_follow_by_us, folder / "data", ids, seconds)


async def _follow_by_us(data_dir: Path, ids: list[str], seconds: float) -> None:
    async with _collectors(data_dir) as logs:
        for agent_id in ids:
            AgentFolders(data_dir, agent_id).make(None)
            logs.follow(agent_id, InstanceRef(instance_id=f"i-{agent_id}", handle=agent_id))
        await anyio.sleep(SETTLE_SECONDS)
        stop = _cost()
        await anyio.sleep(seconds)
        threads, cpu = stop()
    lines = sum(1 for agent_id in ids for _ in oldest_first(segments_in(AgentFolders(data_dir, agent_id).logs)))
    print(threads, cpu, lines)


@asynccontextmanager
async def _collectors(data_dir: Path) -> AsyncIterator[LogCollectors]:
    async def learn(_: str) -> None:
        """There are no secrets."""

    async with open_install(Settings(data_dir=data_dir)) as install, anyio.create_task_group() as tasks:
        yield LogCollectors(install, tasks, learn)
        tasks.cancel_scope.cancel()


def _follow_by_sdk(host: str, folder: Path, ids: list[str], seconds: float) -> None:
    client = docker.APIClient(base_url=host, version="1.41", timeout=3600, max_pool_size=len(ids))

    def follow(agent_id: str) -> None:
        with (folder / agent_id).open("ab") as file:
            for chunk in client.logs(agent_id, stream=True, follow=True, timestamps=True):
                file.write(chunk)
                file.flush()

    for agent_id in ids:
        threading.Thread(target=follow, args=(agent_id,), daemon=True).start()
    time.sleep(SETTLE_SECONDS)
    stop = _cost()
    time.sleep(seconds)
    threads, cpu = stop()
    print(threads, cpu, sum((folder / agent_id).read_bytes().count(b"\n") for agent_id in ids), flush=True)
    os._exit(0)  # its threads wait for ever


def _cost() -> Callable[[], tuple[int, float]]:
    began, used = time.monotonic(), time.process_time()
    return lambda: (
        threading.active_count() - 1,
        100 * (time.process_time() - used) / (time.monotonic() - began),
    )


if __name__ == "__main__":
    sys.exit(main())
