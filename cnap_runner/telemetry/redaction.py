"""The one redaction that everything passes on its way out: logs, events, errors, results, the decision log.

It knows the values of the install's secrets, and the usual looks of others. What it replaces reads ``[redacted]``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from cnap_runner.telemetry.known_values import SHORTEST_VALUE, KnownValues, forms_of
from cnap_runner.telemetry.patterns import REFERENCE, SECRET_NAME, is_shell_folder, redact_patterns

REPLACEMENT = "[redacted]"

__all__ = ["REPLACEMENT", "SHORTEST_VALUE", "Redactor", "StreamRedactor"]


class Redactor:
    """Replaces secrets in text and data. Values may be added and removed while it is in use, from any thread."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        """Values shorter than six characters are not redacted by value: they would be found all over ordinary text."""
        self._changing = threading.Lock()
        self._forms: dict[str, frozenset[str]] = {}
        self._known = KnownValues()
        self.add(*values)

    @property
    def known(self) -> KnownValues:
        """The values as they are now; the object itself never changes."""
        return self._known

    def add(self, *values: str) -> None:
        """Know these values from now on. Idempotent, and quick where all are known."""
        with self._changing:
            if new := {value: forms_of(value) for value in values if value not in self._forms}:
                self._forms |= new
                self._known = self._known.also(chain.from_iterable(new.values()))

    def remove(self, *values: str) -> None:
        """Forget values that are no secret any more. Unknown ones are no error."""
        with self._changing:
            if [value for value in values if self._forms.pop(value, None) is not None]:
                self._known = KnownValues(chain.from_iterable(self._forms.values()))

    def redact(self, text: str) -> str:
        """The text without secrets. Text without any comes back as the same object."""
        return redact_patterns(self._known.replaced(text, REPLACEMENT), REPLACEMENT)

    def redact_data(self, data: Any) -> Any:
        """A copy of nested mappings and sequences without secrets.

        The value of a key that names a secret (``apiKey``, ``DB_PASSWORD``) is replaced whole, unless it only refers to one
        (``{file:…}``, ``${NAME}``). Bytes become text. Other scalars stay as they are.
        """
        match data:
            case str():
                return self.redact(data)
            case bytes() | bytearray():
                return self.redact(data.decode(errors="replace"))
            case Mapping():
                return {self._key(key): self._value(key, value) for key, value in data.items()}
            case list() | tuple() | set() | frozenset():
                return [self.redact_data(each) for each in data]
            case _:
                return data

    def stream(self) -> StreamRedactor:
        """A redactor for one text that comes in pieces."""
        return StreamRedactor(self)

    def _key(self, key: Any) -> Any:
        return self.redact(key) if isinstance(key, str) else key

    def _value(self, key: Any, value: Any) -> Any:
        if value is None or isinstance(value, bool) or not (isinstance(key, str) and SECRET_NAME.fullmatch(key)):
            return self.redact_data(value)
        if isinstance(value, str) and (not value or REFERENCE.fullmatch(value) or is_shell_folder(key, value)):
            return value
        return REPLACEMENT


class StreamRedactor:
    """Redacts one text that comes in pieces, such as the deltas of an answer.

    A known value is found wherever the pieces part it: what could be the beginning of one is held back until it is decided. What is
    secret only by its looks is found within a piece; the whole text is to be redacted again where it is shown as a whole.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be shown now; may be empty."""
        text = self._held + piece
        end = self._redactor.known.safe_end(text)
        self._held = text[end:]
        return self._redactor.redact(text[:end])

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return self._redactor.redact(rest)
