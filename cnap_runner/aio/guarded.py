"""A loop that must not end: it is begun again after a failure, more slowly each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import anyio

FIRST_PAUSE = timedelta(seconds=0.5)
LONGEST_PAUSE = timedelta(seconds=30)
HEALTHY_AFTER = timedelta(seconds=60)
"""A loop that held this long begins with the first pause again."""


async def keep_running(loop: Callable[[], Awaitable[None]], *, failed: Callable[[Exception], None]) -> None:
    """Run ``loop`` until cancelled. Each failure is told to ``failed``; a loop that returns is begun again too."""
    pause = FIRST_PAUSE
    while True:
        began = anyio.current_time()
        try:
            await loop()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the loop goes on
            failed(error)
        if anyio.current_time() - began > HEALTHY_AFTER.total_seconds():
            pause = FIRST_PAUSE
        await anyio.sleep(pause.total_seconds())
        pause = min(pause * 2, LONGEST_PAUSE)
