"""Containers frozen and thawed."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from docker import APIClient

from cnap_runner.backends.docker.ending import exited
from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.reports import observation
from cnap_runner.backends.docker.trouble import EngineRefusal, translated
from cnap_runner.model.instance import InstanceRef, InstanceStatus

_FREEZE_PAUSES = (0.1, 0.3, 0.5)


async def freeze(engine: Engine, ref: InstanceRef) -> None:
    """Freeze a container. One that is frozen stays so. Raises `InstanceExited`."""
    await _change(engine, ref, lambda sdk: sdk.pause(ref.handle), wanted=InstanceStatus.PAUSED)


async def thaw(engine: Engine, ref: InstanceRef) -> None:
    """Thaw a container. One that is not frozen stays so. Raises `InstanceExited`."""
    await _change(engine, ref, lambda sdk: sdk.unpause(ref.handle), wanted=InstanceStatus.RUNNING)


async def _change(
    engine: Engine, ref: InstanceRef, change: Callable[[APIClient], None], *, wanted: InstanceStatus
) -> None:
    """Pause or resume; what the engine refuses because it is so already is no error.

    On cgroup v1 the kernel may fail to freeze processes that it is just making; a moment later it can.
    """
    for pause in (*_FREEZE_PAUSES, None):
        with translated(f"Making {ref.instance_id} {wanted} failed"):
            try:
                return await engine.ask(change)
            except EngineRefusal as refusal:
                seen = observation(await engine.ask(lambda sdk: sdk.inspect_container(ref.handle)))
                if not seen.is_live:
                    raise await exited(engine, seen) from refusal
                if seen.status is wanted:
                    return None
                if pause is None or "freeze" not in refusal.message:
                    raise
        await anyio.sleep(pause)
    return None
