"""From nothing to a server that answers with data: ours beside ``docker run``, and beside the engine's bare API."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import docker

from benchmarks.figures import Comparison, Expected
from benchmarks.plain_container import (
    Start,
    Template,
    by_api,
    by_docker_run,
    check_same_options,
    inspect,
    plain_container,
)
from benchmarks.rounds import Stopwatch, alternate
from benchmarks.stage import Stage, open_stage

TITLE = "Cold start"


async def measure(rounds: int) -> list[Comparison]:
    """Measure three subjects per round, each with new folders and a new container, which is removed before the next one."""
    engine = docker.APIClient(version="auto")
    try:
        async with open_stage() as stage:
            template = await _template(stage)
            taken = await alternate(
                TITLE,
                {
                    "cnap_runner": Ours(stage).start,
                    "docker run": Plain(stage, template, by_docker_run).start,
                    "engine API": Plain(stage, template, by_api(engine)).start,
                },
                rounds=rounds,
            )
    finally:
        engine.close()
    ours = taken["cnap_runner"]
    return [
        Comparison(f"{TITLE} against `docker run`", ours, taken["docker run"], Expected(ratio=1.05)),
        Comparison(f"{TITLE} against the engine's API", ours, taken["engine API"], Expected()),
    ]


class Ours:
    """`RunnerManager.create_runner` and `start_runner` of an agent that nobody knows yet."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._numbers = count()

    async def start(self) -> Sequence[float]:
        """Start one agent; deleting it does not count."""
        spec = self._stage.spec(f"cold-{next(self._numbers)}")
        watch = Stopwatch()
        await self._stage.manager.create_runner(spec)
        await self._stage.manager.start_runner(spec.agent_id)
        taken = watch.read()
        await self._stage.manager.delete_runner(spec.agent_id, delete_workspace=True)
        return [taken]


class Plain:
    """A container of the same options, started in one of the ways of `benchmarks.plain_container`."""

    def __init__(self, stage: Stage, template: Template, start: Start) -> None:
        self._stage = stage
        self._template = template
        self._start = start
        self._is_checked = False

    async def start(self) -> Sequence[float]:
        """Start one container; removing it does not count."""
        watch = Stopwatch()
        async with plain_container(
            self._template, folder=self._stage.folder / "plain", start=self._start
        ) as container_id:
            taken = watch.read()
            if not self._is_checked:
                await check_same_options(self._template, container_id)
                self._is_checked = True
        return [taken]


async def _template(stage: Stage) -> Template:
    """Start a container of ours once, and see what it is like."""
    spec = stage.spec("template")
    await stage.manager.create_runner(spec)
    runner = await stage.manager.start_runner(spec.agent_id)
    ref = runner.record.ref
    if ref is None:
        raise RuntimeError("A started runner has no container.")
    settings = stage.settings.data_dir / "agents" / spec.agent_id / "settings"
    files = {
        str(path.relative_to(settings)): path.read_text(encoding="utf-8")
        for path in settings.rglob("*")
        if path.is_file()
    }
    template = Template(await inspect(ref.handle), files)
    await stage.manager.delete_runner(spec.agent_id, delete_workspace=True)
    return template
