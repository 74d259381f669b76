"""Names that were made for secrets given in clear, and that outlived the place they were made for. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cnap_runner.model.agent import AgentSpec
from cnap_runner.runner.secrecy.finding import PLACEHOLDER, Path


def names_in(spec: AgentSpec) -> set[str]:
    """Give every ``NAME`` that stands as ``${NAME}`` in a spec."""
    return set(PLACEHOLDER.findall(spec.model_dump_json(include={"opencode", "mcp", "workspace"})))


def leftovers(before: AgentSpec, after: AgentSpec, *, name_of_place: Callable[[Path], str]) -> set[str]:
    """Name the secrets of ``after`` that were made for a place of ``before`` and are used nowhere any more.

    What the user named himself is none of them: such a name does not follow from its place.
    """
    gone = names_in(before) - names_in(after)
    return {
        name
        for name, path in _places(before)
        if name in gone
        and re.fullmatch(rf"{re.escape(name_of_place(path))}(_[0-9]+)?", name)
        and re.fullmatch(rf"vault:{re.escape(before.agent_id)}/{name}\.[0-9a-f]{{8}}", before.secrets.get(name, ""))
        and after.secrets.get(name) == before.secrets[name]
    }


def _places(spec: AgentSpec) -> Iterator[tuple[str, Path]]:
    yield from _names_below(spec.opencode, ("opencode",))
    for name, server in spec.mcp.items():
        yield from _names_below(server.model_dump(exclude_unset=True), ("mcp", name))
    yield from _names_below(spec.workspace.git, ("workspace", "git"))


def _names_below(value: Any, path: Path) -> Iterator[tuple[str, Path]]:
    match value:
        case Mapping():
            for key, item in value.items():
                yield from _names_below(item, (*path, str(key)))
        case list() | tuple():
            for item in value:
                yield from _names_below(item, path)
        case str():
            yield from ((name, path) for name in PLACEHOLDER.findall(value))
