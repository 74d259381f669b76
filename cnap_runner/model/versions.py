"""Numbers of releases, as far as one is older than another."""

from __future__ import annotations

import re


def release_of(text: str) -> tuple[int, ...]:
    """Give the first three numbers of a version: ``1.18.33`` → ``(1, 18, 33)``. Text without any is older than all."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
