"""Finding secrets in what is exported: their values are known, their places are not."""

from __future__ import annotations

from collections.abc import Mapping

from cnap_runner.telemetry.known_values import forms_of


class Scanner:
    """Looks for the values of secrets in files that come in pieces, in every form they usually travel in."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._forms = [(form.encode(), name) for name, value in secrets.items() for form in sorted(forms_of(value))]
        self._overlap = max((len(form) - 1 for form, _ in self._forms), default=0)
        self._tail = b""
        self._found: set[str] = set()

    def begin(self) -> None:
        """Begin a file."""
        self._tail = b""
        self._found = set()

    def feed(self, piece: bytes) -> None:
        """Look at the next piece; a value may begin in one and end in the next."""
        if not self._forms:
            return
        window = self._tail + piece
        self._found.update(name for form, name in self._forms if form in window)
        self._tail = window[-self._overlap :] if self._overlap else b""

    @property
    def found(self) -> list[str]:
        """The names of the secrets whose values the file holds."""
        return sorted(self._found)
