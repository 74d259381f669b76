"""What is asked of the agents: turns with a number each, which is seen in the prompt, in a file of the workspace and in the answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

LANES = ("left", "right")
"""Tasks of each agent; one order of each is under way at a time, so that two wait for one agent."""


@dataclass(frozen=True, slots=True)
class Order:
    """One turn. Whoever carries it out uses its key, so that it may be given to one worker after another."""

    number: int
    agent_id: str
    task_id: str
    seconds: float
    """How long its command takes."""

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return f"order-{self.number}"

    @property
    def answer(self) -> str:
        """What the agent says at the end."""
        return f"done with {self.number}"

    @property
    def prompt(self) -> str:
        """A script that the model plays: a line into the journal, then the answer."""
        pause = f"sleep {self.seconds:g}; " if self.seconds else ""
        return f"bash: {pause}echo {self.number} >> journal\nsay: {self.answer}"

    def as_dict(self) -> dict[str, Any]:
        """For the way to a worker."""
        return asdict(self)


def lanes(agents: int, turns: int, seed: int) -> dict[tuple[str, str], Iterator[Order]]:
    """Deal so many turns to the lanes of so many agents, the same ones for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - to be repeatable
    keys = [(f"agent-{number:02d}", lane) for number in range(agents) for lane in LANES]
    dealt: dict[tuple[str, str], list[Order]] = {key: [] for key in keys}
    for number in range(turns):
        agent_id, lane = keys[number % len(keys)]
        seconds = chance.choice([0, 0, 0, 0.5, 1.5, 4])
        dealt[agent_id, lane].append(Order(number, agent_id, lane, seconds))
    return {key: iter(orders) for key, orders in dealt.items()}
