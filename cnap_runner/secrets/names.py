"""What a secret may be called where we keep it."""

from __future__ import annotations

import re

from cnap_runner.errors import InvalidInput

LONGEST_NAME = 200

LONGEST_VALUE = 64 * 1024
"""Characters. A key or a certificate chain is far below."""

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
    """Return a secret's value unchanged; raise `InvalidInput` for an empty one, one too large, and one that is no text."""
    if not value:
        raise InvalidInput(f"The value of the secret {name} is empty.")
    # Half a surrogate pair is what bytes leave behind that were read as if they were text.
    if len(value) > LONGEST_VALUE or re.search("[\0\ud800-\udfff]", value):
        raise InvalidInput(f"The value of the secret {name} is no text of at most {LONGEST_VALUE} characters.")
    return value
