"""YAML as declarations use it: plain data, each value with its line, and nothing that a reader would not see in the text.

What it refuses: a key given twice, tags, keys that are no text, text of more than 1 MiB, and aliases that unfold into more than
50,000 values. Only ``true``, ``false``, ``null`` and numbers are no text (YAML 1.2): ``no``, ``on``, ``1:30`` and ``2026-01-01`` are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
MAX_DEPTH = 60

Path = tuple[str | int, ...]
"""Where a value stands: keys and indexes from the top."""


class YamlRefused(Exception):
    """A text is not YAML as it is wanted here. Its message quotes no value: it may be secret."""

    def __init__(self, problem: str, *, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        """Counted from 1, where it is known."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text."""

    data: Any
    lines: dict[Path, int] = field(repr=False)

    def line_of(self, path: Path) -> int | None:
        """Tell the line of a value, or of the closest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


class _Loader(yaml.SafeLoader):
    """Resolves what YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


for _tag, _pattern, _firsts in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _firsts)


def parse(text: str) -> list[Document]:
    """Read all documents of a text. Raises `YamlRefused`."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise YamlRefused("it is longer than 1 MiB")
    try:
        return list(_documents(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlRefused(error.problem or "it is not YAML", line=mark.line + 1 if mark else None) from None
    except yaml.YAMLError:
        raise YamlRefused("it holds characters that YAML does not allow") from None
    except RecursionError:
        raise YamlRefused("it is nested too deeply") from None


def parse_value(text: str) -> Any:
    """Read a single value. Raises `YamlRefused`."""
    documents = parse(text)
    if len(documents) > 1:
        raise YamlRefused("it is more than one value")
    return documents[0].data if documents else None


def to_yaml(data: Any) -> str:
    """Write plain data as YAML that `parse` reads back, in its own order; texts of several lines as such."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """What is there twice is written twice."""
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _write_text)


def _documents(text: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            reading = _Reading(loader)
            node = loader.get_node()
            yield Document(reading.read(node, ()), reading.lines)
    finally:
        loader.dispose()


class _Reading:
    """The reading of one document."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._count = 0
        self.lines: dict[Path, int] = {}

    def read(self, node: Any, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._count += 1
        # Aliases cost nothing in the text; what they unfold to is counted here, and one that holds itself has no end.
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise YamlRefused("it unfolds into too many values, or too deeply", line=line)
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in {"str", "null", "bool", "int", "float"}:
            try:
                return self._loader.construct_object(node)
            except ValueError:  # Python reads no number of more than 4,300 digits
                raise YamlRefused("that number is too long", line=line) from None
        raise YamlRefused("tags have no meaning here", line=line)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise YamlRefused("a key has to be text; put it in quotes", line=line)
            key = key_node.value
            if key in found:
                raise YamlRefused(f"{key!r} is given twice", line=line)
            self.lines[(*path, key)] = line
            found[key] = self.read(value_node, (*path, key))
        return found
