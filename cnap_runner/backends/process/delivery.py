"""New secrets for an instance that runs."""

from __future__ import annotations

from pathlib import Path

from cnap_runner.backends.process.freeze import is_frozen, require_live
from cnap_runner.backends.process_launcher.files import SECRETS
from cnap_runner.backends.process_launcher.secret_files import BadArchive, exchange_secrets
from cnap_runner.errors import ConflictError, InvalidInput


def replace_secrets(folder: Path, secrets: bytes) -> None:
    """Replace an instance's secrets, file by file. Needs its lock. Raises as `Backend.deliver`."""
    if is_frozen(require_live(folder)):
        raise ConflictError(f"Instance {folder.name} is paused.", hint="Resume it first.")
    try:
        exchange_secrets(folder / SECRETS, secrets)
    except BadArchive as error:
        raise InvalidInput(f"The secrets cannot be used: {error}.") from error
