"""Truthful readiness: a server is ready when an authenticated, instance-level call returned data.

Its health call is not enough: with an unwritable folder it said "healthy" while every session call failed (docs/opencode.md).
"""

from __future__ import annotations

from datetime import timedelta

import anyio

from cnap_runner.errors import InstanceExited, ServerNotReady, ServerUnreachable
from cnap_runner.opencode.client import OpenCodeClient

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05
TRY_LIMIT = timedelta(seconds=5)
"""For one call. The published port may accept before the server listens, and then never answer."""


async def wait_until_ready(client: OpenCodeClient, *, timeout: timedelta, died: anyio.Event) -> str:
    """Ask until the server answers with data; return its version.

    Raises `ServerNotReady` at the deadline, `InstanceExited` as soon as ``died`` is set, and at once what asking again
    cannot mend: `UnsupportedServerVersion`, `ServerRefusedPassword`.
    """
    last: Exception | None = None
    pause = FIRST_PAUSE
    with anyio.move_on_after(timeout.total_seconds()):
        while not died.is_set():
            try:
                version = await client.handshake(timeout=TRY_LIMIT)
                await client.probe(timeout=TRY_LIMIT)
            except (ServerUnreachable, ServerNotReady) as error:
                last = error
            else:
                return version
            with anyio.move_on_after(pause):
                await died.wait()
            pause = min(pause * 1.5, LONGEST_PAUSE)
        raise InstanceExited("The instance ended before its server was ready.")
    raise ServerNotReady(f"The server did not answer with data within {timeout.total_seconds():g} s ({last}).")
