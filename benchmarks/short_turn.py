"""One short turn of a warm agent, with a model that answers at once: `Runner.run` beside the same calls by bare httpx."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from benchmarks.figures import Comparison, Expected
from benchmarks.rounds import Stopwatch, alternate
from benchmarks.stage import open_stage
from benchmarks.turns import Pair, pair

TITLE = "Short turn"
TURNS_PER_ROUND = 10
"""A turn takes a tenth of a second and varies by more than it should be slower, so one per round says little."""
PROMPT, ANSWER = "say: All is well.", "All is well."


async def measure(rounds: int) -> list[Comparison]:
    """Measure both on one server. Each gets a new session every `TURNS_PER_ROUND` turns: a turn takes longer in a long one."""
    async with open_stage() as stage, pair(stage, "short-turn") as both:
        subjects = {"cnap_runner": Ours(both).turn, "bare httpx": Bare(both).turn}
        turns = rounds * TURNS_PER_ROUND
        taken = await alternate(TITLE, subjects, rounds=turns, warm_ups=TURNS_PER_ROUND)
    expected = Expected(ratio=1.03, more_ms=5)
    return [Comparison(f"{TITLE} against bare httpx", taken["cnap_runner"], taken["bare httpx"], expected)]


class Ours:
    """`Runner.run`."""

    def __init__(self, both: Pair) -> None:
        self._both = both
        self._numbers = count()

    async def turn(self) -> Sequence[float]:
        """Do one turn. The first of a task, which makes its session, does not count."""
        number, in_session = divmod(next(self._numbers), TURNS_PER_ROUND)
        task_id = f"turns-{number}"
        if in_session == 0:
            await self._both.run(PROMPT, task_id=task_id)
        watch = Stopwatch()
        answer = await self._both.run(PROMPT, task_id=task_id)
        return [_checked(watch.read(), answer)]


class Bare:
    """The same by bare httpx."""

    def __init__(self, both: Pair) -> None:
        self._both = both
        self._numbers = count()
        self._session_id = ""

    async def turn(self) -> Sequence[float]:
        """Do one turn. The first of a session does not count."""
        if next(self._numbers) % TURNS_PER_ROUND == 0:
            self._session_id = await self._both.bare.create_session()
            await self._both.run_bare(PROMPT, session_id=self._session_id)
        watch = Stopwatch()
        answer = await self._both.run_bare(PROMPT, session_id=self._session_id)
        return [_checked(watch.read(), answer)]


def _checked(taken: float, answer: str) -> float:
    if answer != ANSWER:
        raise RuntimeError(f"The answer was {answer!r}.")
    return taken
