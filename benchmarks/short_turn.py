"""One short turn of a warm agent, with a model that answers at once: `Runner.run` beside the same calls by bare httpx."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from benchmarks.bare_turns import BareTurns, bare_turns
from benchmarks.figures import Comparison, Expected, Samples
from benchmarks.rounds import Cost, Meter, alternate
from benchmarks.stage import open_stage
from benchmarks.turns import Pair, pair

TITLE = "Short turn"
TURNS_PER_ROUND = 20
"""A turn takes a tenth of a second and varies by more than it should be slower, so one per round says little."""
TURNS_PER_SESSION = 10
"""A turn takes longer in a long session; the first of one, which makes it, does not count."""
PROMPT, ANSWER = "say: All is well.", "All is well."


async def measure(rounds: int) -> list[Comparison]:
    """Measure both on one server, in pairs. Both keep their stream of events over turns, and pay for their own process alone."""
    async with open_stage() as stage, pair(stage, "short-turn") as both, bare_turns(both.bare) as bare:
        subjects = {"cnap_runner": Ours(both).turn, "bare httpx": Bare(bare).turn}
        turns = rounds * TURNS_PER_ROUND
        taken = await alternate(TITLE, subjects, rounds=turns, warm_ups=TURNS_PER_SESSION)
    (wall, cpu), (bare_wall, bare_cpu) = (_split(taken[name]) for name in subjects)
    expected = Expected(ratio=1.03, more_ms=5)
    return [
        Comparison(f"{TITLE} against bare httpx", wall, bare_wall, expected, is_paired=True),
        Comparison(f"{TITLE}, the client's CPU", cpu, bare_cpu, Expected(), is_paired=True),
    ]


class Ours:
    """`Runner.run`."""

    def __init__(self, both: Pair) -> None:
        self._both = both
        self._numbers = count()

    async def turn(self) -> Sequence[float]:
        """Do one turn."""
        number, in_session = divmod(next(self._numbers), TURNS_PER_SESSION)
        task_id = f"turns-{number}"
        if in_session == 0:
            await self._both.run(PROMPT, task_id=task_id)
        meter = Meter()
        answer = await self._both.run(PROMPT, task_id=task_id)
        return _checked(meter.read(), answer)


class Bare:
    """The same by bare httpx."""

    def __init__(self, bare: BareTurns) -> None:
        self._bare = bare
        self._numbers = count()

    async def turn(self) -> Sequence[float]:
        """Do one turn."""
        if next(self._numbers) % TURNS_PER_SESSION == 0:
            await self._bare.new_session(PROMPT)
        answer, cost = await self._bare.turn(PROMPT)
        return _checked(cost, answer)


def _checked(cost: Cost, answer: str) -> Sequence[float]:
    if answer != ANSWER:
        raise RuntimeError(f"The answer was {answer!r}.")
    return cost.wall_ms, cost.cpu_ms


def _split(samples: Samples) -> tuple[Samples, Samples]:
    """Make samples of each thing that was measured."""
    wall, cpu = (Samples(samples.name, tuple((values[at],) for values in samples.rounds)) for at in (0, 1))
    return wall, cpu
