"""The base of everything that comes in from outside: frozen, strict about names, one clear error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cnap_runner.errors import InvalidInput


class EdgeModel(BaseModel):
    """A value given by a caller, a file or the API. Frozen; unknown fields are refused.

    Its constructor raises `InvalidInput` (a `ValueError`), never pydantic's own error, and names each wrong field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InvalidInput(f"{type(self).__name__}: {describe(error)}") from None

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Self:
        """Make one from a plain dictionary, as the constructor would; raises `InvalidInput`."""
        return cls(**data)


def describe(error: ValidationError, *, name: Callable[[str], str] = str) -> str:
    """Put pydantic's findings into one line: ``field: what is wrong; other.field: …``. Values are left out: they may be secret.

    ``name`` turns a field's name into what the user knows it by.
    """
    findings: dict[str, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        first, *rest = [str(part) for part in item["loc"]] or [""]
        path = ".".join([name(first), *rest]) if first else ""
        if item["type"] == "too_short" and any(known.startswith(f"{path}.") for known in findings):
            continue  # Said of a list whose only item was refused above.
        findings[path] = _finding(item)
    return "; ".join(f"{path}: {message}" if path else message for path, message in findings.items())


def findings_of(error: InvalidInput) -> list[tuple[tuple[str | int, ...], str]]:
    """Give what is wrong with a value that its constructor refused, field by field: the path, and the finding.

    Empty where the error did not come from a constructor.
    """
    # The constructor hides pydantic's own error from tracebacks; it is the context all the same.
    cause = error.__context__
    if not isinstance(cause, ValidationError):
        return []
    found: list[tuple[tuple[str | int, ...], str]] = []
    for item in cause.errors(include_url=False, include_input=False):
        inner = item.get("ctx", {}).get("error")
        nested = findings_of(inner) if isinstance(inner, InvalidInput) else []
        found += [((*item["loc"], *path), text) for path, text in nested] or [(item["loc"], _finding(item))]
    return found


def _finding(item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        return "there is no such field"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, InvalidInput):
        return _CLASS_NAME.sub("", cause.message)
    message = item["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


_CLASS_NAME = re.compile(r"^[A-Z][A-Za-z]+: ")
