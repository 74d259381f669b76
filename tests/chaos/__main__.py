"""``make chaos``: agents at work while a second process kills, freezes, cuts and fills whatever they stand on; at the end, proofs.

Takes a seed, a number of agents and of turns. Needs root: the engine, its bridge and the small disk are its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import docker

from cnap_runner import RunnerManager
from cnap_runner.testing.private_engine import why_not
from cnap_runner.testing.scripted_model import ScriptedModel
from tests.chaos import proofs
from tests.chaos.crew import Crew
from tests.chaos.orders import lanes
from tests.chaos.places import WITNESS, Places
from tests.chaos.recovery_times import Fault, table
from tests.chaos.worker import settings_of

WORKERS = 4
LONGEST_REST = 45
"""Seconds between two faults, where nobody answers meanwhile."""
FEWEST_EXTRA = {"descriptors": 12, "threads": 24}
"""What a manager may hold more at the end than at its beginning: pooled connections and idle threads of its libraries."""


class Harm:
    """The process that does harm, and what it says of it."""

    def __init__(self, places: Places, crew: Crew, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - to be repeatable
        self._seed = seed
        self._places = places
        self._crew = crew
        self.faults: list[Fault] = []
        self.missed: list[dict[str, Any]] = []
        self.engine = ""
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self) -> None:
        """Start it, which makes the engine and the disk."""
        argv = ["-m", "tests.chaos.trouble", str(self._places.folder), str(self._seed)]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdin=pipe, stdout=pipe)
        self.engine = (await self._next())["engine"]

    async def go_on(self, agents: list[str], until: asyncio.Event) -> None:
        """Let it do harm, some answers after the one before, and keep the account of it."""
        while True:
            count = self._chance.randint(1, 2 * len(agents))
            await self._crew.until_answers(count, at_most=LONGEST_REST, unless=until)
            if until.is_set():
                return
            self.tell("strike")
            while "done" not in (said := await self._next()):
                self._note(said, agents)

    def _note(self, said: dict[str, Any], agents: list[str]) -> None:
        if "missed" in said:
            self.missed.append(said)
            return
        worker = self._crew.workers.get(said["worker"] or "")
        whom = said["agents"] or (worker.agents if worker else []) or ([] if said["worker"] else agents)
        self.faults.append(Fault(said["fault"], said["at"], whom))
        print(f"  {said['fault']}: {said['worker'] or ', '.join(said['agents'] or ['everybody'])}", flush=True)

    def tell(self, word: str) -> None:
        """Say one word to it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def leave(self) -> None:
        """Let it take its engine and its disk away."""
        if self._process is not None:
            self.tell("leave")
            await self._process.wait()

    async def _next(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("The process that does harm has ended; its last words are above.")
        said: dict[str, Any] = json.loads(line)
        return said


async def chaos(places: Places, *, seed: int, agents: int, turns: int) -> bool:
    """Run it all; tell whether every proof holds."""
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ScriptedModel(host="0.0.0.0", log_path=places.model_log))
        crew = Crew(places, size=WORKERS, model_port=model.port, seed=seed)
        harm = Harm(places, crew, seed)
        stack.push_async_callback(harm.leave)
        await harm.begin()
        os.environ["DOCKER_HOST"] = f"unix://{places.socket}"  # not before: its image comes from the usual engine
        dealt = lanes(agents, turns, seed)
        everybody = sorted({agent_id for agent_id, _ in dealt})
        async with crew:
            while not all(worker.ready.is_set() for worker in crew.workers.values()) or len(crew.workers) < WORKERS:
                await asyncio.sleep(0.1)
            before = await crew.workers[WITNESS].measure()
            began, enough = time.monotonic(), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for orders in dealt.values():
                    tasks.create_task(crew.work_off(orders))
                await crew.until_all_answered(everybody)
                harming = asyncio.create_task(harm.go_on(everybody, enough))
            enough.set()
            await harming
            took = time.monotonic() - began
            async with RunnerManager(settings_of(places)) as manager:
                found = await _prove(manager, places, crew)
                await manager.purge()
            found["no descriptor or thread is left over"] = _grown(before, await crew.workers[WITNESS].measure())
        engine = docker.DockerClient(base_url=harm.engine)
        found["nothing is left over"] = proofs.nothing_is_left(engine, places)
        engine.close()
        _report(crew, harm, found, took=took, seed=seed)
        return not any(found.values())


async def _prove(manager: RunnerManager, places: Places, crew: Crew) -> dict[str, list[str]]:
    given = await proofs.account(manager, places, crew.endings)
    return {
        "each accepted run has exactly one true outcome": proofs.each_run_has_one_true_outcome(given),
        "no prompt reached the model twice": proofs.no_prompt_reached_the_model_twice(given),
        "files are what the finished runs made": proofs.files_are_what_the_runs_made(given),
        "sessions are what the runs made": await proofs.sessions_are_what_the_runs_made(manager, given),
    }


def _grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return [
        f"{after[name]} {name}, {before[name]} at the beginning"
        for name, extra in FEWEST_EXTRA.items()
        if after[name] > before[name] + extra
    ]


def _report(crew: Crew, harm: Harm, found: dict[str, list[str]], *, took: float, seed: int) -> None:
    outcomes = Counter(ending.said["error"] or ending.said["outcome"] for ending in crew.endings)
    print(f"\n{len(crew.endings)} turns and {len(harm.faults)} faults in {took:.0f} s, seed {seed}")
    print("outcomes:", ", ".join(f"{name} {count}" for name, count in outcomes.most_common()))
    print("asked again after:", ", ".join(f"{name} {count}" for name, count in crew.again.most_common()) or "nothing")
    print("workers ended with:", dict(crew.exits))
    for said in harm.missed:
        print("missed:", said)
    print(f"\nFrom the fault to the next answer of an agent concerned:\n\n{table(harm.faults, crew.endings)}\n")
    for name, wrong in found.items():
        print(f"{'FAILED' if wrong else 'proved'}: {name}")
        for line in wrong[:20]:
            print(f"    {line}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--turns", type=int, default=400)
    given = parser.parse_args()
    if (reason := why_not()) is not None:
        print(f"chaos: {reason}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    places = Places(folder)
    places.workers.mkdir()
    is_proved = asyncio.run(chaos(places, seed=given.seed, agents=given.agents, turns=given.turns))
    if is_proved:
        shutil.rmtree(folder)
    else:
        print(f"what the managers said is in {folder}", file=sys.stderr)
    return 0 if is_proved else 1


if __name__ == "__main__":
    sys.exit(main())
