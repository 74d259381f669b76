"""From a fragment's leaving the server to the callback that hears it: `Runner.run` beside a bare reader of the stream."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import Comparison, Expected
from benchmarks.rounds import alternate
from benchmarks.stage import STREAM_PROMPT, STREAM_WORDS, Change, child_process, open_stage, written
from benchmarks.tap import latencies
from benchmarks.turns import Ear, Heard, pair
from cnap_runner.backends.base import OnAddress
from cnap_runner.backends.docker import DockerBackend
from cnap_runner.model.instance import InstanceRef

TITLE = "Fragment heard"


async def measure(rounds: int) -> list[Comparison]:
    """Stream one answer per subject and round through the tap; every fragment is a value."""
    async with _tapped() as change, open_stage(change=change) as stage, pair(stage, "delta-latency") as both:
        session_id = await both.bare.create_session()

        async def ours() -> Sequence[float]:
            ear = Ear()
            await both.run(STREAM_PROMPT, callback=ear)
            return _checked(latencies(ear.heard))

        async def bare() -> Sequence[float]:
            heard: Heard = []
            await both.run_bare(STREAM_PROMPT, session_id=session_id, heard=heard)
            return _checked(latencies(heard))

        taken = await alternate(TITLE, {"cnap_runner": ours, "bare httpx": bare}, rounds=rounds)
    return [Comparison(f"{TITLE}, beside bare httpx", taken["cnap_runner"], taken["bare httpx"], Expected(median_ms=2))]


class TappedBackend(DockerBackend):
    """Containers whose servers are reached through a tap."""

    def __init__(self, taps: AsyncExitStack) -> None:
        super().__init__()
        self._taps = taps

    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:
        """Start a container, and a tap before its server."""
        endpoint = await super().start(ref, secrets=secrets, on_address=on_address)
        return await self._taps.enter_async_context(_tap(endpoint))


@asynccontextmanager
async def _tapped() -> AsyncIterator[Change]:
    """Give the change of an install that puts taps before its servers; they end with the context."""
    async with AsyncExitStack() as taps:
        backend = TappedBackend(taps)
        taps.push_async_callback(backend.aclose)
        yield lambda install: replace(install, backend=backend)


@asynccontextmanager
async def _tap(upstream: str) -> AsyncIterator[str]:
    """Run a tap before one server; gives the tap's address."""
    with tempfile.TemporaryDirectory(prefix="cnap-bench-") as folder:
        port = Path(folder) / "port"
        async with child_process("benchmarks.tap", upstream, str(port)):
            yield f"http://127.0.0.1:{await written(port)}"


def _checked(taken: list[float]) -> list[float]:
    if len(taken) != STREAM_WORDS:
        raise RuntimeError(f"{len(taken)} fragments were heard of {STREAM_WORDS}.")
    return taken
