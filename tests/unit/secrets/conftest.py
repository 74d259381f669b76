"""Every kind of source, over real files, a real environment's stand-in and a keyring in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

from cnap_runner.secrets.vault import Vault

INSTALL_KEY = bytes(range(32))


class MemoryKeyring(KeyringBackend):
    """A keyring of the library's own kind, in memory."""

    priority = 1.0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def memory_keyring() -> Iterator[MemoryKeyring]:
    """The system's keyring, for one test."""
    before, ours = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(ours)
    yield ours
    keyring.set_keyring(before)


@pytest.fixture
def no_keyring_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "keyring", None)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path, INSTALL_KEY)
