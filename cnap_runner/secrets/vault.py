"""``vault:NAME``: an encrypted file of the install, so that secrets can be kept where there is neither a keyring nor a secret service.

The key is derived from ``install.key``: no manager needs a password, and whoever can read that file can read the vault. What it is good
for, and what not, is told by ADR 0013.

Each value is encrypted by itself (AES-256-GCM) and bound to its name, so that values cannot be exchanged. Names are in clear.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnap_runner.errors import SecretUnavailable
from cnap_runner.secrets.base import WritableSource
from cnap_runner.secrets.names import check_name, check_value

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE = "secrets.vault"
LOCK = "secrets.lock"

_LOCK_LIMIT = timedelta(seconds=10)
"""A change takes milliseconds; whoever holds the lock for longer was frozen in the middle of it."""
_LOCK_PAUSE = timedelta(milliseconds=10)
_VERSION = 1
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Vault(WritableSource):
    """The encrypted file in a data folder. Several processes and threads may use it at the same time."""

    scheme = "vault"

    def __init__(self, data_dir: Path, install_key: bytes) -> None:
        self._path = data_dir / FILE
        self._lock = data_dir / LOCK
        self._install_key = install_key

    def get(self, name: str) -> str:
        """Return a secret. Raises `SecretUnavailable` where there is none, the file is damaged, or it is of another ``install.key``."""
        sealed = self._load().get(check_name(name))
        if sealed is None:
            raise SecretUnavailable(
                f"The vault has no secret {name}.", hint=f"`cnap-runner secret set {name}` puts it there."
            )
        return self._open(name, sealed)

    def put(self, name: str, value: str) -> None:
        """Keep a secret; on the disk when this returns."""
        with self._changed() as sealed:
            sealed[check_name(name)] = self._seal(name, check_value(name, value))

    def delete(self, name: str) -> bool:
        """Forget a secret."""
        with self._changed() as sealed:
            return sealed.pop(check_name(name), None) is not None

    def names(self) -> list[str]:
        """Name what is kept."""
        return sorted(self._load())

    def describe(self) -> str:
        """Say where this is."""
        return f"the encrypted file {self._path}"

    def stamp(self, name: str) -> int | None:  # noqa: ARG002 - all are in one file
        """Give the time of the last change to any secret."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None

    # --- the file -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _changed(self) -> Iterator[dict[str, str]]:
        """Give the sealed values for a change that nobody else makes at the same time; write them unless it fails."""
        with self._locked():
            sealed = self._load()
            before = dict(sealed)
            yield sealed
            if sealed != before:
                self._save(sealed)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other writers, threads included: the lock belongs to this opening of the file."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SecretUnavailable(f"{self._lock} cannot be opened: {error.strerror}.") from error
        try:
            self._take(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + _LOCK_LIMIT.total_seconds()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SecretUnavailable(
                        f"Another process holds {self._lock} for too long.", hint="Try again."
                    ) from None
                time.sleep(_LOCK_PAUSE.total_seconds())
            else:
                return

    def _load(self) -> dict[str, str]:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SecretUnavailable(f"{self._path} cannot be read: {error.strerror}.") from error
        try:
            data = json.loads(text)
            version, key_id, sealed = data["version"], data["key"], data["values"]
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged() from error
        if version != _VERSION:
            raise SecretUnavailable(
                f"{self._path} was written by a newer version of this package.", hint="Upgrade cnap-runner."
            )
        if key_id != self._keys[1]:
            raise SecretUnavailable(
                f"{self._path} was written with another install.key.",
                hint="Put the install.key it belongs to back; or remove the file and set its secrets anew.",
            )
        if not _is_texts(sealed):
            raise self._damaged()
        return dict(sealed)

    def _save(self, sealed: Mapping[str, str]) -> None:
        """Replace the file, whole or not at all, also when the machine stops. The caller holds the lock."""
        text = json.dumps({"version": _VERSION, "key": self._keys[1], "values": sealed}, indent=1, sort_keys=True)
        draft = self._path.with_suffix(".new")
        try:
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            draft.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise SecretUnavailable(f"{self._path} cannot be written: {error.strerror}.") from error

    def _damaged(self) -> SecretUnavailable:
        return SecretUnavailable(
            f"{self._path} is damaged.", hint="Restore it from a copy; or remove it and set its secrets anew."
        )

    # --- the cipher -----------------------------------------------------------------------------------------------------

    @cached_property
    def _keys(self) -> tuple[bytes, str]:
        """The key, and a name for it that gives nothing of it away. Derived when first needed: the library takes a tenth of a second to load."""
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        derived = HKDF(hashes.SHA256(), length=_KEY_BYTES + 8, salt=None, info=b"cnap-runner vault 1")
        material = derived.derive(self._install_key)
        return material[:_KEY_BYTES], material[_KEY_BYTES:].hex()

    def _seal(self, name: str, value: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, value.encode(), name.encode())).decode()

    def _open(self, name: str, sealed: str) -> str:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise self._damaged() from error

    @cached_property
    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        return AESGCM(self._keys[0])


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _sync_folder(folder: Path) -> None:
    """Let a renaming in a folder outlive a stop of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
