"""``keyring:NAME``: the keyring of the operating system, by the library ``keyring`` (extra ``keyring``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cnap_runner.errors import SecretUnavailable
from cnap_runner.secrets.base import WritableSource
from cnap_runner.secrets.names import check_name, check_value

SERVICE = "cnap-runner"
"""The name under which a keyring files our secrets; a secret's name is its user name there."""


class KeyringSource(WritableSource):
    """The keyring of the user the manager runs as. The library is loaded when it is first needed."""

    scheme = "keyring"

    def get(self, name: str) -> str:
        """Return a secret. Raises `SecretUnavailable` where the library, a keyring or the secret is missing, or it is locked."""
        with _keyring() as keyring:
            value = keyring.get_password(SERVICE, check_name(name))
        if value is None:
            raise SecretUnavailable(
                f"The keyring has no secret {name}.",
                hint=f"`cnap-runner secret set {name} --source keyring` puts it there.",
            )
        return str(value)

    def put(self, name: str, value: str) -> None:
        """Keep a secret."""
        with _keyring() as keyring:
            keyring.set_password(SERVICE, check_name(name), check_value(name, value))

    def delete(self, name: str) -> bool:
        """Forget a secret."""
        with _keyring() as keyring:
            is_there = keyring.get_password(SERVICE, check_name(name)) is not None
            if is_there:
                keyring.delete_password(SERVICE, name)
        return is_there

    def names(self) -> None:
        """Keyrings cannot be listed."""
        return

    def describe(self) -> str:
        """Say where this is."""
        return f"the system's keyring, service {SERVICE}"


@contextmanager
def _keyring() -> Iterator[Any]:
    """Give the library; what goes wrong with it becomes one error that says what to do."""
    try:
        keyring = import_module("keyring")
        errors = import_module("keyring.errors")
    except ImportError as error:
        raise SecretUnavailable(
            "Secrets of the system's keyring need the library keyring.", hint="pip install 'cnap-runner[keyring]'"
        ) from error
    try:
        yield keyring
    except errors.NoKeyringError as error:
        raise SecretUnavailable(
            "This system has no keyring that can be used.",
            hint="Keep the secret in the vault: `cnap-runner secret set NAME`.",
        ) from error
    except errors.KeyringError as error:
        raise SecretUnavailable(
            f"The system's keyring refused: {type(error).__name__}.", hint="Unlock it, or keep the secret in the vault."
        ) from error
