"""What the keeper process says of itself: who it is, since when, and by which settings it works, which are those of whoever started it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnap_runner.settings import Settings

STATE = Path("managers") / "keeper.json"

TOLD = ("pause_after", "idle_timeout", "max_age", "memory_mark_percent", "sweep_interval", "metrics_port")
"""The settings a keeper works by that people ask about."""


@dataclass(frozen=True, slots=True)
class KeeperState:
    """One keeper process."""

    manager_id: str
    pid: int
    since: str
    """When it began, ISO 8601."""
    settings: dict[str, Any]
    """The values of `TOLD`; durations are seconds."""


def told(settings: Settings) -> dict[str, Any]:
    """Give the settings a keeper says that it works by."""
    from cnap_runner.cli.output import plain

    return {name: plain(getattr(settings, name)) for name in TOLD}


def write_state(settings: Settings, manager_id: str) -> None:
    """Say that this process is the keeper, in one step."""
    state = KeeperState(manager_id, os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"), told(settings))
    path = settings.data_dir / STATE
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
    draft.replace(path)


def read_state(data_dir: Path) -> KeeperState | None:
    """Read what the keeper that lives says of itself; None where none lives, or one that is just beginning."""
    from cnap_runner.store.presence import is_alive

    try:
        state = KeeperState(**json.loads((data_dir / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if is_alive(data_dir, state.manager_id) else None


def in_words(name: str, value: Any) -> str:
    """Write one of those settings for people: ``idle_timeout 300 s``."""
    unit = " s" if name.endswith(("_after", "_timeout", "_age", "_interval")) else ""
    return f"{name} none" if value is None else f"{name} {value:g}{unit}"
