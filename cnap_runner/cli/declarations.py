"""Agents declared in YAML files: read, with every mistake named by file, line and field.

A document is one agent, with the fields of `AgentSpec`, or a list of them under ``agents:``; a file may hold several documents. Where text
is long, ``{file: PATH}`` stands for a file's: in ``system_prompt`` and in ``opencode_files``. Relative paths begin at the declaration's folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnap_runner.cli.yaml_text import MAX_BYTES, Document, YamlRefused, parse
from cnap_runner.cli.yaml_text import Path as ValuePath
from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.edge import findings_of

STANDARD_INPUT = "-"
SUFFIXES = (".yaml", ".yml")


Judge = Callable[[AgentSpec], Iterable[tuple[ValuePath, str]]]
"""Gives what is wrong with an agent that can be read: the path of a field, and what is to be said."""


def load(sources: Sequence[str], *, judge: Judge | None = None) -> list[AgentSpec]:
    """Read the agents that files, folders (their ``*.yaml`` and ``*.yml``) and standard input (``-``) declare. Blocks.

    Raises one `InvalidInput` that names all mistakes, those that ``judge`` finds among them.
    """
    reading = _Reading(judge)
    for source in sources:
        for path in _files_of(source):
            reading.read(path)
    if reading.mistakes:
        raise InvalidInput("\n       ".join(reading.mistakes))
    if not reading.specs:
        raise InvalidInput(f"No agent is declared in {', '.join(sources)}.")
    return reading.specs


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that is read, as it is named to the user."""

    name: str
    folder: Path
    document: Document

    def at(self, path: ValuePath, text: str) -> str:
        """Put the place of a value before what is wrong with it."""
        return f"{self.name}:{self.document.line_of(path) or 1}: {text}"


@dataclass(slots=True)
class _Reading:
    """All that is read by one call."""

    judge: Judge | None
    specs: list[AgentSpec] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    _places: dict[str, str] = field(default_factory=dict)
    """Agent → where it was declared first."""

    def read(self, path: str) -> None:
        name = "standard input" if path == STANDARD_INPUT else path
        try:
            text = _read_text(path)
            folder = Path.cwd() if path == STANDARD_INPUT else Path(path).absolute().parent
            for document in parse(text):
                self._read_document(_Source(name, folder, document))
        except YamlRefused as error:
            self.mistakes.append(f"{name}{'' if error.line is None else f':{error.line}'}: {error.problem}.")

    def _read_document(self, source: _Source) -> None:
        data = source.document.data
        if data is None:
            return
        if isinstance(data, dict) and "agents" in data:
            others = [key for key in data if key != "agents"]
            if others or not isinstance(data["agents"], list):
                at = (others[0],) if others else ("agents",)
                self.mistakes.append(source.at(at, "beside `agents:`, which is a list, nothing else may stand."))
                return
            for index, agent in enumerate(data["agents"]):
                self._read_agent(source, agent, ("agents", index))
        else:
            self._read_agent(source, data, ())

    def _read_agent(self, source: _Source, data: Any, at: ValuePath) -> None:
        if not isinstance(data, dict):
            self.mistakes.append(source.at(at, "an agent is declared by fields, such as agent_id and model."))
            return
        try:
            spec = AgentSpec.parse(_completed(data, source.folder))
        except _FileMissing as error:
            self.mistakes.append(source.at((*at, *error.path), f"{'.'.join(error.path)}: {error.problem}"))
        except InvalidInput as error:
            for found, text in findings_of(error) or [((), error.message)]:
                path = _as_written(found, data)
                self.mistakes.append(source.at((*at, *path), f"{'.'.join(map(str, path))}: {text}".removeprefix(": ")))
        else:
            self._add(spec, source.at((*at, "agent_id"), ""))
            for path, text in self.judge(spec) if self.judge else ():
                self.mistakes.append(source.at((*at, *path), _about(path, text)))

    def _add(self, spec: AgentSpec, place: str) -> None:
        first = self._places.setdefault(spec.agent_id, place)
        if first is not place:
            self.mistakes.append(f"{place}agent {spec.agent_id} is declared already, at {first.rstrip(': ')}.")
        else:
            self.specs.append(spec)


class _FileMissing(InvalidInput):
    """A file that a declaration refers to cannot be read."""

    def __init__(self, path: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def _files_of(source: str) -> Iterator[str]:
    folder = Path(source)
    if source == STANDARD_INPUT or not folder.is_dir():
        yield source
        return
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    if not found:
        raise InvalidInput(f"{source} has no file that ends in {' or '.join(SUFFIXES)}.")
    yield from map(str, found)


def _read_text(path: str) -> str:
    try:
        if path != STANDARD_INPUT:
            with Path(path).open("rb") as file:
                return file.read(MAX_BYTES + 1).decode()
        if sys.stdin is None:  # what Python makes of one that was closed before its start
            raise YamlRefused("it is closed")
        return sys.stdin.buffer.read(MAX_BYTES + 1).decode()
    except UnicodeDecodeError:
        raise YamlRefused("it is not UTF-8 text") from None
    except OSError as error:
        raise YamlRefused(f"it cannot be read: {error.strerror}") from None


def _completed(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Put in what the declaration refers to, and make its paths independent of the current folder."""
    data = dict(data)
    if "system_prompt" in data:
        data["system_prompt"] = _included(data["system_prompt"], folder, ("system_prompt",))
    if isinstance(files := data.get("opencode_files"), dict):
        data["opencode_files"] = {
            name: _included(text, folder, ("opencode_files", name)) for name, text in files.items()
        }
    if isinstance(workspace := data.get("workspace"), dict):
        data["workspace"] = {name: _anchored(name, value, folder) for name, value in workspace.items()}
    return data


def _included(value: Any, folder: Path, at: tuple[str, ...]) -> Any:
    if not (isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str)):
        return value
    try:
        return _read_text(str(folder / value["file"]))
    except YamlRefused as error:
        raise _FileMissing(at, f"{value['file']}: {error.problem}.") from None


def _anchored(name: str, value: Any, folder: Path) -> Any:
    is_path = isinstance(value, str) and (name == "copy" or (name == "git" and value.startswith(("./", "../"))))
    return str(folder / Path(value).expanduser()) if is_path else value


def _about(path: ValuePath, text: str) -> str:
    """Put a field's name before what is wrong with it, once."""
    steps = [str(step) for step in path if isinstance(step, str)]
    spelt = [*(".".join(steps[first:]) for first in range(len(steps))), *steps[:1]]
    for name in spelt:
        if text.startswith((f"{name}: ", f"{name} ")):
            text = text.removeprefix(name).lstrip(": ")
            break
    return f"{'.'.join(map(str, path))}: {text}".removeprefix(": ")


def _as_written(path: ValuePath, data: Any) -> ValuePath:
    """Give a path as it stands in the text: pydantic adds the kind of an MCP server, which need not be written."""
    steps: list[str | int] = []
    for step in path:
        if isinstance(data, dict) and step not in data and step in {"local", "remote"}:
            continue
        steps.append(step)
        data = data.get(step) if isinstance(data, dict) else None
    return tuple(steps)
