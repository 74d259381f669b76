"""One short turn of a warm agent, with a model that answers at once: `Runner.run` beside the same calls by bare httpx."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Comparison, Expected
from benchmarks.rounds import Stopwatch, alternate
from benchmarks.stage import open_stage
from benchmarks.turns import pair

TITLE = "Short turn"
TURNS_PER_ROUND = 5
"""A turn takes a tenth of a second and varies by as much as it should not be slower by, so one per round says little."""
ANSWER = "All is well."


async def measure(rounds: int) -> list[Comparison]:
    """Measure both on one server, each with a session of its own that grows alike."""
    async with open_stage() as stage, pair(stage, "short-turn") as both:

        async def ours() -> Sequence[float]:
            watch = Stopwatch()
            _check(await both.run(f"say: {ANSWER}"))
            return [watch.read()]

        async def bare() -> Sequence[float]:
            watch = Stopwatch()
            _check(await both.run_bare(f"say: {ANSWER}"))
            return [watch.read()]

        taken = await alternate(
            TITLE, {"cnap_runner": ours, "bare httpx": bare}, rounds=rounds * TURNS_PER_ROUND, warm_ups=TURNS_PER_ROUND
        )
    return [
        Comparison(
            f"{TITLE} against bare httpx", taken["cnap_runner"], taken["bare httpx"], Expected(ratio=1.03, more_ms=5)
        )
    ]


def _check(answer: str) -> None:
    if answer != ANSWER:
        raise RuntimeError(f"The answer was {answer!r}.")
