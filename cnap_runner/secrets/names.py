"""What a secret may be called where we keep it."""

from __future__ import annotations

import re

from cnap_runner.errors import InvalidInput

LONGEST_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def check_name(name: str) -> str:
    """Return a secret's name unchanged, or raise `InvalidInput`."""
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not a secret's name.",
            hint=f"Use letters, digits, '_', '.' and '-', at most {LONGEST_NAME} characters; '/' between parts.",
        )
    return name


def check_value(name: str, value: str) -> str:
    """Return a secret's value unchanged; raise `InvalidInput` for an empty one, and one that no file or header can carry."""
    if not value or "\0" in value:
        raise InvalidInput(f"The value of the secret {name} is {'empty' if not value else 'no text'}.")
    return value
