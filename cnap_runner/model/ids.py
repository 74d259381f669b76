"""Ids: validated once, where they come in; plain strings from there on."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from pydantic import AfterValidator

from cnap_runner.errors import InvalidInput

_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def check_id(value: str) -> str:
    """Return the id unchanged, or raise `InvalidInput`.

    An id becomes a folder's and a container's name, so it has 1 to 64 characters of ``[a-z0-9_.-]``, begins with a letter or
    digit, and cannot climb out of a folder (``..`` is refused).
    """
    if not _ID.fullmatch(value) or ".." in value:
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise InvalidInput(
            f"{shown!r} is not an id: use 1 to 64 of a-z, 0-9, '_', '.' and '-', beginning with a letter or digit, without '..'."
        )
    return value


AgentId = Annotated[str, AfterValidator(check_id)]
"""Names an agent within its install."""

TaskId = Annotated[str, AfterValidator(check_id)]
"""Names a task within its agent."""

RunId = Annotated[str, AfterValidator(check_id)]
"""Names a run; made by `new_id`."""


def new_id(prefix: str) -> str:
    """Make an id nobody has used: the prefix, a dash, and 60 random bits (``run-1f0c9a7be42d5a3``)."""
    return f"{prefix}-{secrets.token_hex(8)[:15]}"
