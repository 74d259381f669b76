"""Finds secrets that are written out in a configuration, by the names they have and by their looks. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cnap_runner.telemetry.patterns import SECRET_NAME, redact_patterns

PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""``${NAME}``, which stands for a secret."""

Path = tuple[str, ...]
Replace = Callable[[str, Path], str]
"""Is given a secret and where it stands, and returns what takes its place."""

_REFERENCE = re.compile(rf"{PLACEHOLDER.pattern}|\{{(?:file|env):[^}}]*\}}")
_MARK = "\0"

_NOT_NEEDED = frozenset({"dummy", "empty", "lm-studio", "na", "none", "not-needed", "null", "ollama", "unused", "x"})
"""What people write where a key is asked for and none is needed, in small letters."""


def without_secrets(value: Any, path: Path, replace: Replace) -> Any:
    """Give a part of a configuration, whose place is ``path``, with every secret in it replaced.

    A secret is a text under a telling name (``apiKey``, ``Authorization``) that refers to nothing, and what looks like a token anywhere.
    """
    match value:
        case Mapping():
            return {key: without_secrets(item, (*path, str(key)), replace) for key, item in value.items()}
        case list() | tuple():
            return [without_secrets(item, path, replace) for item in value]
        case str():
            return _text_without_secrets(value, path, replace)
        case _:
            return value


def without_tokens(text: str, path: Path, replace: Replace) -> str:
    """Replace those parts of a text that are secret by their looks; the rest stays, so that an address remains one."""
    kept = redact_patterns(text, _MARK).split(_MARK)
    parts = re.fullmatch("(.+?)".join(map(re.escape, kept)), text, re.DOTALL) if len(kept) > 1 else None
    if parts is None:
        return text
    found = [replace(part, path) for part in parts.groups()]
    return "".join(piece for pair in zip(kept, [*found, ""], strict=True) for piece in pair)


def _text_without_secrets(text: str, path: Path, replace: Replace) -> str:
    if _REFERENCE.search(text):
        return text
    # The keys of permissions are patterns of files and commands: "*credentials" is one of them.
    is_named = bool(SECRET_NAME.fullmatch(path[-1])) and not (path[0] == "opencode" and "permission" in path)
    if is_named and text.lower() not in {"", *_NOT_NEEDED}:
        return replace(text, path)
    return without_tokens(text, path, replace)
