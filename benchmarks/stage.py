"""What the benchmarks need around them: an install of its own, a scripted model in a process of its own, and no remains."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio

from cnap_runner import AgentSpec, Settings
from cnap_runner.runner.install import Install
from cnap_runner.runner.manager import RunnerManager
from cnap_runner.testing.scripted_model import provider_config
from cnap_runner.wiring import load_template, open_install

STREAM_PROMPT = "Stream, please."
STREAM_WORDS = 50
STREAM_PAUSE = "10ms"
"""Between two words of the streamed answer: long enough that each is a fragment of its own and nothing queues up."""
_TEXT = "the agent reads what it was asked and writes down each step before it begins with the work at hand"
"""Ordinary words: the last letter of a fragment may be the first of a secret, and is held back then."""

Change = Callable[[Install], Install]
"""Exchanges parts of an install before its manager gets it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An open manager, and what its agents are told about their model."""

    manager: RunnerManager
    settings: Settings
    folder: Path
    """For what belongs to no agent of ours. Removed at the end."""
    provider: dict[str, Any]

    def spec(self, agent_id: str) -> AgentSpec:
        """Describe one agent that uses the scripted model."""
        return AgentSpec(agent_id=agent_id, model="scripted/demo", opencode=self.provider)


@asynccontextmanager
async def open_stage(*, change: Change | None = None, max_containers: int = 10) -> AsyncIterator[Stage]:
    """Open a new install in a temporary folder; at the end all that was made for it is removed, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="cnap-bench-") as name:
        folder = Path(name)
        settings = Settings(data_dir=folder / "data", fetch_models=False, max_containers=max_containers)
        async with _model(folder) as base_url:
            manager = RunnerManager(
                _opening(settings, change), lambda: load_template(settings.data_dir), is_observer=False
            )
            async with manager:
                try:
                    yield Stage(manager, settings, folder, provider_config(base_url))
                finally:
                    with anyio.CancelScope(shield=True):
                        await manager.purge()


def _opening(settings: Settings, change: Change | None) -> Callable[[], AbstractAsyncContextManager[Install]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Install]:
        async with open_install(settings) as install:
            yield install if change is None else change(install)

    return opened


@asynccontextmanager
async def _model(folder: Path) -> AsyncIterator[str]:
    """Serve the scripted model; gives its address as containers see it. In a process of its own it takes no time of our event loop."""
    script, port = folder / "script.json", folder / "port"
    words = f"\nwait: {STREAM_PAUSE}\n".join(f"say: {word}" for word in islice(cycle(_TEXT.split()), STREAM_WORDS))
    script.write_text(json.dumps({"rules": [{"prompt": STREAM_PROMPT, "turn": words}]}), encoding="utf-8")
    options = ["--host", "0.0.0.0", "--script", str(script), "--port-file", str(port)]
    async with child_process("cnap_runner.testing.scripted_model", *options):
        yield f"http://host.docker.internal:{await written(port)}/v1"


@asynccontextmanager
async def child_process(module: str, *arguments: str) -> AsyncIterator[None]:
    """Run a module in a Python process of its own for as long as the context is open."""
    process = await anyio.open_process([sys.executable, "-m", module, *arguments], stdout=None, stderr=None)
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()


async def written(path: Path, *, seconds: float = 20.0) -> str:
    """Wait for a file that another process writes, whole or not at all, and read it; raises `TimeoutError`."""
    file = anyio.Path(path)
    with anyio.fail_after(seconds):
        while not await file.exists():
            await anyio.sleep(0.02)
    return (await file.read_text()).strip()
