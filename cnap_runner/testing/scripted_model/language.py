"""Scripts as text: a small language for prompts, and files in JSON or TOML.

A prompt written in the language is its own script. Each line is a step; indented lines continue the one above::

    think: The user wants a greeting.
    write: hello.txt
      Hello, world
    bash: cat hello.txt
    say: There it is.

=========================  =========================================================================
``say: TEXT``              text, streamed
``think: TEXT``            reasoning
``bash: COMMAND``          the shell tool
``write: PATH``            the write tool; the indented lines are the content
``read: PATH``             the read tool
``call: TOOL {JSON}``      any other tool
``wait: 2s``               silence
``fail: STATUS MESSAGE``   an HTTP error; ``fail: 429 x2 MESSAGE`` fails twice, then goes on
``cut: TEXT``              text, then the connection is dropped; ``cut: x1 TEXT`` only once
``hang``                   never goes on
``malformed``              a broken event
=========================  =========================================================================

Each tool call ends a reply, so the next step follows its result.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cnap_runner.errors import InvalidInput
from cnap_runner.model.durations import parse_duration
from cnap_runner.testing.scripted_model.script import (
    FAILURE,
    CallTool,
    CutStream,
    Fail,
    Hang,
    Malformed,
    Rule,
    Say,
    Step,
    Think,
    Turn,
    Wait,
    as_turn,
)

_LINE = re.compile(r"(?P<verb>[a-z]+)(?:: ?(?P<rest>.*)|)$")
_TIMES = re.compile(r"x(\d+)(?:\s+|$)")


def parse_prompt(text: str) -> Turn | None:
    """The turn a prompt describes, or None for one in plain words.

    Raises `InvalidInput` for a prompt whose first line is a step and a later one is not.
    """
    lines = text.strip("\n").splitlines()
    first = _LINE.match(lines[0].strip()) if lines else None
    if first is None or first["verb"] not in _VERBS or (first[2] is None and first["verb"] not in _BARE):
        return None
    return parse_script(text)


def parse_script(text: str) -> Turn:
    """The turn that text in the language describes. Raises `InvalidInput` with the line that is not understood."""
    return as_turn([_VERBS[block.verb](block) for block in _blocks(text)])


def load_rules(path: Path) -> list[Rule]:
    """Rules of a script file: ``rules``, a list of tables with ``prompt`` or ``pattern`` and ``turn``, text in the language.

    ``.toml`` files are TOML, all others JSON. Raises `InvalidInput` for a file that cannot be read or understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        return [_rule(entry) for entry in data["rules"]]
    except OSError as error:
        raise InvalidInput(f"Script file {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, re.error) as error:
        hint = "It needs a list `rules`; see docs/testing.md."
        raise InvalidInput(f"Script file {path}: {error!r}.", hint=hint) from error


def _rule(entry: dict[str, Any]) -> Rule:
    matcher: str | re.Pattern[str] = re.compile(entry["pattern"]) if "pattern" in entry else entry["prompt"]
    return Rule(matcher, parse_script(entry["turn"]))


@dataclass(frozen=True, slots=True)
class _Block:
    """One step as it is written."""

    verb: str
    rest: str
    """What follows the verb on its line."""
    below: list[str]
    """The indented lines that follow, without two spaces of their indentation."""

    @property
    def text(self) -> str:
        return "\n".join(([self.rest] if self.rest else []) + self.below).rstrip()


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    for line in text.strip("\n").splitlines():
        if blocks and (not line or line[0].isspace()):
            blocks[-1].below.append(line.removeprefix("  "))
        else:
            blocks.append(_head(line.strip()))
    return blocks


def _head(line: str) -> _Block:
    found = _LINE.match(line)
    if found is None or found["verb"] not in _VERBS:
        steps = ", ".join(sorted(_VERBS))
        hint = f"A line starts with one of {steps}, and one that continues a step is indented."
        raise InvalidInput(f"Script: {line[:80]!r} is not a step.", hint=hint)
    return _Block(found["verb"], (found["rest"] or "").strip(), [])


def _write(block: _Block) -> Step:
    content = "\n".join(block.below).rstrip("\n")
    return CallTool("write", {"filePath": block.rest, "content": f"{content}\n" if content else ""})


def _bash(block: _Block) -> Step:
    return CallTool("bash", {"command": block.text, "description": "Runs what the script says"})


def _call(block: _Block) -> Step:
    name, _, arguments = block.text.partition(" ")
    try:
        return CallTool(name, json.loads(arguments or "{}"))
    except ValueError as error:
        raise InvalidInput(f"Script: the arguments of {name!r} are not JSON: {error}") from error


def _wait(block: _Block) -> Step:
    duration: timedelta = parse_duration(block.rest)
    return Wait(duration)


def _fail(block: _Block) -> Step:
    status, _, rest = block.text.partition(" ")
    if not re.fullmatch(r"[45]\d\d", status):
        raise InvalidInput(f"Script: {status!r} is not an HTTP error; write `fail: 500 broken`.")
    times, message = _times(rest)
    return Fail(int(status), message or FAILURE, times=times)


def _cut(block: _Block) -> Step:
    times, text = _times(block.text)
    return CutStream(text, times=times)


def _times(text: str) -> tuple[int | None, str]:
    found = _TIMES.match(text)
    return (int(found[1]), text[found.end() :]) if found else (None, text)


_BARE = frozenset({"hang", "malformed", "cut"})
"""Steps that may stand without a colon at the head of a prompt."""

_VERBS: dict[str, Callable[[_Block], Step]] = {
    "say": lambda block: Say(block.text),
    "think": lambda block: Think(block.text),
    "bash": _bash,
    "write": _write,
    "read": lambda block: CallTool("read", {"filePath": block.rest}),
    "call": _call,
    "wait": _wait,
    "fail": _fail,
    "cut": _cut,
    "hang": lambda _: Hang(),
    "malformed": lambda _: Malformed(),
}
