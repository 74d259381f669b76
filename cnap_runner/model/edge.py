"""The base of everything that comes in from outside: frozen, strict about names, one clear error."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

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


def describe(error: ValidationError) -> str:
    """Put pydantic's findings into one line: ``field: what is wrong; other.field: …``. Values are left out: they may be secret."""
    findings = []
    for item in error.errors(include_url=False, include_input=False):
        cause = item.get("ctx", {}).get("error")
        message = cause.message if isinstance(cause, InvalidInput) else item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "there is no such field"
        path = ".".join(str(part) for part in item["loc"])
        findings.append(f"{path}: {message}" if path else message)
    return "; ".join(findings)
