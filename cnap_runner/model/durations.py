"""One way to write a duration: a `timedelta`, a number of seconds, or text such as ``90s``, ``5m``, ``1h30m``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from cnap_runner.errors import InvalidInput

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(value: Any) -> Any:
    """Turn text or a number of seconds into a `timedelta`; raises `InvalidInput` for text that is none."""
    if isinstance(value, str):
        text = value.strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return timedelta(seconds=float(text))
        if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
            raise InvalidInput(
                f"{value!r} is not a duration: write a number of seconds, or text such as 90s, 5m or 1h30m."
            )
        return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return value


def duration_text(value: timedelta) -> str:
    """Write a duration as `parse_duration` reads it: ``1h30m``, ``90s`` as ``1m30s``, ``500ms``."""
    rest, parts = round(value.total_seconds() * 1000), []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _check_positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise InvalidInput("a duration must be more than 0.")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_check_positive)]
"""A duration above zero, in any of the three spellings."""
