"""Starting a container and handing it its secrets by standard input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpcore

from cnap_runner.aio.shield import shielded
from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.trouble import EngineRefusal
from cnap_runner.errors import InstanceStartFailed

START_SECONDS = 120.0
"""The engine's answer to a start. On a busy host with a slow disk it takes far longer than the usual 0.3 s."""
WRITE_SECONDS = 30.0
CLOSE_LIMIT = timedelta(seconds=1)
_NOT_MODIFIED = 304


async def start_with_input(
    engine: Engine, container_id: str, content: bytes, *, on_started: Callable[[], Awaitable[None]]
) -> None:
    """Start a container, await ``on_started``, write ``content`` to its standard input, then end that input.

    The engine must be attached before the start: what is written later would find standard input closed. Closing the
    connection is the end of the input (``StdinOnce``), also where ``on_started`` raises: the launcher then ends for want of secrets.
    Changes nothing on a container that runs, a paused one included. Raises `EngineRefusal`, and `InstanceStartFailed` where
    nobody inside reads.
    """
    try:
        async with engine.upgraded(f"/containers/{container_id}/attach", params={"stdin": 1, "stream": 1}) as stream:
            answer = await engine.post(f"/containers/{container_id}/start", wait_seconds=START_SECONDS)
            if answer.status_code != _NOT_MODIFIED:
                await on_started()
                await _write(stream, content)
    except EngineRefusal as refusal:
        if "paused" not in refusal.message:
            raise


async def _write(stream: httpcore.AsyncNetworkStream, content: bytes) -> None:
    try:
        await stream.write(content, timeout=WRITE_SECONDS)
    except httpcore.TimeoutException as error:
        raise InstanceStartFailed(f"The instance did not take its secrets within {WRITE_SECONDS:.0f} s.") from error
    except httpcore.NetworkError:
        # Nobody reads: the launcher ended. How it ended is seen by whoever inspects the container next.
        return
    finally:
        async with shielded(CLOSE_LIMIT):
            await stream.aclose()
