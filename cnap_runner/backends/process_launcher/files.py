"""Files of an instance's folder that both sides read: names, and writing whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

INSTANCE_FILE = "instance.json"
STATUS_FILE = "status.json"
STOP_FILE = "stop.json"
"""How long a stop waits: ``{"grace_seconds": 10.0}``. Written before the launcher gets SIGTERM."""
PAUSE_FILE = "pause.json"
LOG_FILE = "output.log"
OLD_LOG_FILE = "output.log.1"
LOCK_FILE = "lock"
SECRETS = "secrets"
"""Where `Layout.secrets` points: a link to a folder in memory, or a folder where there is no memory file system."""


def write_json(path: Path, value: Any) -> None:
    """Replace a file in one step; a reader sees the old text or the new, never a part."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(value, file, indent=2, sort_keys=True)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
