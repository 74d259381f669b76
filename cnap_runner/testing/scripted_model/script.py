"""What a scripted model says: steps, the replies they make up, the turns replies make up, and the rules that choose a turn.

A *step* is one thing a model does. A *reply* is the answer to one request: steps in order. A *turn* is the list of replies to one prompt:
an agent asks its model again after each round of tool calls, so a turn with tools has several replies. All are values; nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

NO_TIME = timedelta(0)
FAILURE = "The scripted model was told to fail."


@dataclass(frozen=True, slots=True)
class Say:
    """Text of the answer, streamed in chunks."""

    text: str
    chunk_size: int | None = None
    """Characters per chunk; None streams a word at a time."""
    pause: timedelta = NO_TIME
    """Time between two chunks."""


@dataclass(frozen=True, slots=True)
class Think:
    """Reasoning text, sent as ``reasoning_content``."""

    text: str


@dataclass(frozen=True, slots=True)
class CallTool:
    """A call of one of the agent's tools, for example ``CallTool("bash", {"command": "ls"})``."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """Silence for a while."""

    duration: timedelta


@dataclass(frozen=True, slots=True)
class Fail:
    """An HTTP error with a body as providers send it. Has to be the first step that acts; one in mid-stream sends an error chunk."""

    status: int
    message: str = FAILURE
    retry_after: timedelta | None = None
    """Sent as the ``Retry-After`` header, in whole seconds."""
    times: int | None = None
    """How often the same request of the same session fails before the step is skipped; None: always."""


@dataclass(frozen=True, slots=True)
class CutStream:
    """The connection is dropped, after some text."""

    after: str = ""
    times: int | None = None
    """As in `Fail`."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Never goes on. As the first step not even the headers are sent; later the stream stays open and mute."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """One event of the stream whose data is not JSON."""

    data: str = '{"choices": [{"delta": '


Step = Say | Think | CallTool | Wait | Fail | CutStream | Hang | Malformed


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What the reply reports as used. Input includes what was read from the cache, as OpenAI counts it."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, init=False)
class Reply:
    """The answer to one request: ``Reply(Think("…"), Say("…"))``. A sequence of steps is taken as well."""

    steps: tuple[Step, ...]
    first_token_after: timedelta
    """Time from the request to the first chunk; the headers are sent at once."""
    usage: TokenUsage | None
    """None: estimated from the length of the texts."""

    def __init__(
        self,
        *steps: Step | Sequence[Step],
        first_token_after: timedelta = NO_TIME,
        usage: TokenUsage | None = None,
    ) -> None:
        flat = tuple(each for step in steps for each in (step if isinstance(step, Sequence) else (step,)))
        object.__setattr__(self, "steps", flat)
        object.__setattr__(self, "first_token_after", first_token_after)
        object.__setattr__(self, "usage", usage)

    @property
    def calls_tools(self) -> bool:
        """Whether the agent will come back with the results of tools."""
        return any(isinstance(step, CallTool) for step in self.steps)


Turn = tuple[Reply, ...]

LAST_REPLY = Reply(Say("Done."))
"""What is said when a turn goes on for longer than its script."""


def as_turn(items: Step | Reply | Sequence[Step | Reply]) -> Turn:
    """Group a list of steps and replies into replies. A tool call ends a reply; write a `Reply` for several calls in one."""
    replies: list[Reply] = []
    loose: list[Step] = []
    for item in items if isinstance(items, Sequence) else (items,):
        if isinstance(item, Reply):
            replies += [Reply(loose), item] if loose else [item]
            loose = []
            continue
        loose.append(item)
        if isinstance(item, CallTool):
            replies.append(Reply(loose))
            loose = []
    return tuple([*replies, Reply(loose)] if loose else replies)


def due_reply(turn: Turn, number: int) -> Reply:
    """The reply to the request of that number (0 is the first) in its turn."""
    return turn[number] if number < len(turn) else LAST_REPLY


@dataclass(frozen=True, slots=True, init=False)
class Rule:
    """Prompts that contain a text, or that a compiled pattern finds, get this turn: ``Rule("a README", [CallTool(…), Say("…")])``."""

    prompt: str | re.Pattern[str]
    turn: Turn

    def __init__(self, prompt: str | re.Pattern[str], turn: Step | Reply | Sequence[Step | Reply]) -> None:
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "turn", as_turn(turn))

    def matches(self, prompt: str) -> bool:
        """Whether this rule is for that prompt. A text is compared without regard to case."""
        if isinstance(self.prompt, str):
            return self.prompt.casefold() in prompt.casefold()
        return self.prompt.search(prompt) is not None
