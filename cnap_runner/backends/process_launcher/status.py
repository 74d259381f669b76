"""What the launcher tells about its run, in ``status.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnap_runner.backends.process_launcher.files import STATUS_FILE, write_json
from cnap_runner.backends.process_launcher.proc import ProcessIdentity


@dataclass(frozen=True, slots=True)
class LauncherStatus:
    """One run of an instance, from the launcher's start to its end."""

    launcher: ProcessIdentity
    started_at: datetime
    server: ProcessIdentity | None = None
    port: int | None = None
    """Where the server listens on 127.0.0.1, once it said so."""
    exit_code: int | None = None
    """As a shell gives it: 128 + N for one killed by signal N."""
    signal: int | None = None
    """The signal that ended the server, if one did."""
    finished_at: datetime | None = None

    def ended(self, exit_code: int | None, *, signal: int | None = None) -> LauncherStatus:
        """The run is over: nothing of it lives."""
        return replace(self, exit_code=exit_code, signal=signal, finished_at=datetime.now(UTC))

    def write(self, folder: Path) -> None:
        """Put it in the instance's folder. Raises `OSError`."""
        write_json(folder / STATUS_FILE, _plain(asdict(self)))


def read_status(folder: Path) -> LauncherStatus | None:
    """Read the present run; None when there was none yet. Raises `ValueError` for a damaged file, else `OSError`."""
    try:
        text = (folder / STATUS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return _parse(json.loads(text))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a launcher's status: {error!r}") from error


def _parse(data: dict[str, Any]) -> LauncherStatus:
    server, finished = data["server"], data["finished_at"]
    return LauncherStatus(
        launcher=ProcessIdentity(**data["launcher"]),
        started_at=datetime.fromisoformat(data["started_at"]),
        server=None if server is None else ProcessIdentity(**server),
        port=data["port"],
        exit_code=data["exit_code"],
        signal=data["signal"],
        finished_at=None if finished is None else datetime.fromisoformat(finished),
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
