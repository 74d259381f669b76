"""When somebody last looked at all agents of an install: one sweep per interval is enough, however many managers there are."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import anyio

FILE = Path("managers") / "swept"


class LastSweep:
    """The modification time of a file that all managers see. Without it everybody sweeps, which costs work and nothing else."""

    def __init__(self, data_dir: Path) -> None:
        self._path = anyio.Path(data_dir / FILE)

    async def is_within(self, time_span: timedelta) -> bool:
        """Whether it was so short a time ago. Not where the host's clock was set back since."""
        try:
            ago = time.time() - (await self._path.stat()).st_mtime
        except OSError:
            return False
        return 0 <= ago < time_span.total_seconds()

    async def is_now(self) -> None:
        """Say that it is done now."""
        with suppress(OSError):
            await self._path.touch()
