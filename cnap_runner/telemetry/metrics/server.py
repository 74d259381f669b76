"""``/metrics`` on loopback. Loads Prometheus's library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, start_http_server

from cnap_runner.errors import InvalidInput

LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def serving(registry: CollectorRegistry, port: int) -> AsyncIterator[int]:
    """Serve a registry while the context lasts, in threads of its own; give the port (0: any free one was taken).

    Raises `InvalidInput` where another program has the port.
    """
    try:
        server, thread = await anyio.to_thread.run_sync(lambda: start_http_server(port, LOOPBACK, registry))
    except OSError as error:
        raise InvalidInput(
            f"Metrics cannot be served at {LOOPBACK}:{port}: {error.strerror}.",
            hint="Another program has that port; CNAP_RUNNER_METRICS_PORT names another.",
        ) from error
    try:
        yield server.server_port
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.shutdown)
            server.server_close()
            await anyio.to_thread.run_sync(thread.join)
