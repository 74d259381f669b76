"""Truthful readiness: a server is ready when an authenticated, instance-level call returned data.

Its health call is not enough: with an unwritable folder it said "healthy" while every session call failed (docs/opencode.md).
"""

from __future__ import annotations

from datetime import timedelta

import anyio

from cnap_runner.errors import InstanceExited, ServerNotReady, ServerUnreachable
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.trouble import ConnectionLost

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05
FIRST_PATIENCE = timedelta(seconds=0.25)
LONGEST_PATIENCE = timedelta(seconds=5)
"""For one call, doubling. A server that boots accepts connections and never answers what arrives too early (docs/opencode.md), and
a published port may accept before anybody listens."""
REFUSAL_PATIENCE = timedelta(seconds=3)
"""For an address at which a server was. A frozen or busy one still accepts connections; when none comes about, the way to it is gone
(FAILURES row 27), and waiting does not bring it back."""


async def wait_until_ready(
    client: OpenCodeClient, *, timeout: timedelta, died: anyio.Event, has_served: bool = False
) -> str:
    """Ask until the server answers with data; return its version.

    One that ``has_served`` is given `REFUSAL_PATIENCE` only while nothing listens at its address. Raises `ServerNotReady` at the
    deadline, `InstanceExited` as soon as ``died`` is set, and at once what asking again cannot mend: `UnsupportedServerVersion`,
    `ServerRefusedPassword`.
    """
    last: Exception | None = None
    refused_since: float | None = None
    pause, patience = FIRST_PAUSE, FIRST_PATIENCE
    with anyio.move_on_after(timeout.total_seconds()):
        while not died.is_set():
            try:
                version = await client.handshake(timeout=patience)
                await client.probe(timeout=patience)
            except ServerUnreachable as error:
                last = error
                refused_since = None if isinstance(error, ConnectionLost) else refused_since or anyio.current_time()
                if has_served and _is_gone(refused_since):
                    raise ServerNotReady(f"Nothing listens where its server was ({last}).") from error
            except ServerNotReady as error:
                last, refused_since = error, None
                patience = min(patience * 2, LONGEST_PATIENCE)
            else:
                return version
            with anyio.move_on_after(pause):
                await died.wait()
            pause = min(pause * 1.5, LONGEST_PAUSE)
        raise InstanceExited("The instance ended before its server was ready.")
    raise ServerNotReady(f"The server did not answer with data within {timeout.total_seconds():g} s ({last}).")


def _is_gone(refused_since: float | None) -> bool:
    return refused_since is not None and anyio.current_time() - refused_since > REFUSAL_PATIENCE.total_seconds()
