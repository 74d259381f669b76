"""The contract of a place where secrets are kept, and the store that finds the right one by a reference.

A reference is ``scheme:name``: ``env:TOKEN``, ``file:/run/secrets/token``, ``keyring:TOKEN``, ``vault:TOKEN``. Everything here blocks
(files, a keyring's own service): call it in a thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from cnap_runner.errors import InvalidInput

SCHEMES = ("env", "file", "keyring", "vault")
"""What a reference may begin with."""


class SecretSource(ABC):
    """A place where secrets are kept. Its errors name the secret, never its value."""

    scheme: ClassVar[str]
    """What its references begin with; one of `SCHEMES`."""

    @abstractmethod
    def get(self, name: str) -> str:
        """Return a secret. Raises `SecretUnavailable` where there is none of that name, or the place cannot be read."""

    @abstractmethod
    def describe(self) -> str:
        """Say where this is, for people: ``the folder /run/secrets``."""

    def stamp(self, name: str) -> int | None:  # noqa: ARG002 - what other sources go by
        """Give what differs after a secret has changed, without reading it; None where the place cannot tell."""
        return None


class WritableSource(SecretSource):
    """A place that takes secrets as well."""

    @abstractmethod
    def put(self, name: str, value: str) -> None:
        """Keep a secret; one of that name is replaced. Raises `InvalidInput` for a name that is none, else as `get`."""

    @abstractmethod
    def delete(self, name: str) -> bool:
        """Forget a secret, and say whether there was one. Raises `SecretUnavailable` where the place cannot be read or written."""

    @abstractmethod
    def names(self) -> list[str] | None:
        """Name what is kept, in order; None where the place cannot tell. Raises `SecretUnavailable` as `get`."""


class SecretStore:
    """All sources of an install. Safe for threads, as its sources are."""

    def __init__(self, sources: Iterable[SecretSource]) -> None:
        self._sources = {source.scheme: source for source in sources}

    def get(self, reference: str) -> str:
        """Return what a reference stands for. Raises `InvalidInput` for one of no known scheme, and `SecretUnavailable`."""
        scheme, name = split_reference(reference)
        return self._sources[scheme].get(name)

    def stamp(self, reference: str) -> int | None:
        """Give what differs after a secret has changed, as `SecretSource.stamp`; None for a reference that is none."""
        if not is_reference(reference):
            return None
        scheme, name = split_reference(reference)
        return self._sources[scheme].stamp(name)

    def writable(self, scheme: str) -> WritableSource:
        """Return a source that takes secrets. Raises `InvalidInput` for one that is only read."""
        source = self._sources.get(scheme)
        if not isinstance(source, WritableSource):
            raise InvalidInput(f"Secrets cannot be written to {scheme!r}.", hint="Write to vault or keyring.")
        return source

    @property
    def vault(self) -> WritableSource:
        """The install's own encrypted file."""
        return self.writable("vault")


def is_reference(text: str) -> bool:
    """Whether a text says where a secret is, not what it is."""
    scheme, colon, name = text.partition(":")
    return bool(colon and name) and scheme in SCHEMES


def split_reference(reference: str) -> tuple[str, str]:
    """Part a reference into scheme and name. Raises `InvalidInput`, which does not repeat the text: it could be the secret itself."""
    if not is_reference(reference):
        raise InvalidInput(
            "A secret's reference begins with env:, file:, keyring: or vault:, and this one does not.",
            hint="For example vault:NAME, after `cnap-runner secret set NAME`.",
        )
    scheme, _, name = reference.partition(":")
    return scheme, name
