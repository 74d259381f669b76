"""What is known of an install's proxy from outside: where it listens, and whether it lives."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

LIFE_FILE = "proxy.lock"
"""Locked for as long as the proxy lives."""
STATE_FILE = "proxy.json"
LOG_FILE = "log/proxy.log"
WANTED_FILE = "wanted"
"""Touched whenever a manager makes sure of the proxy."""


@dataclass(frozen=True, slots=True)
class ProxyState:
    """Where the proxy of an install listens, and as which process."""

    address: str
    port: int
    pid: int
    http_proxy: str = ""
    """The company's own proxy, through which ours goes; empty: none."""
    no_proxy: str = ""
    version: str = ""
    """Of this package, whose program it is; empty: one from before it was written down."""


def read_state(folder: Path) -> ProxyState | None:
    """Read what the last proxy wrote down; None where there is nothing readable. That of a later version may say more."""
    try:
        said = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return ProxyState(**{field.name: said[field.name] for field in fields(ProxyState) if field.name in said})
    except (OSError, ValueError, TypeError):
        return None


def is_alive(folder: Path) -> bool:
    """Whether a proxy lives in this folder."""
    try:
        descriptor = os.open(folder / LIFE_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_state(folder: Path, state: ProxyState) -> None:
    """Write down where the proxy listens, for all who ask. For the proxy alone."""
    draft = folder / f".{STATE_FILE}.new"
    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
    draft.replace(folder / STATE_FILE)
