"""Containers that end, and what is told of one that has."""

from __future__ import annotations

import math
from datetime import timedelta

from cnap_runner.backends.docker.engine import ANSWER_SECONDS, Engine
from cnap_runner.backends.docker.output import last_words
from cnap_runner.backends.docker.trouble import EngineRefusal
from cnap_runner.errors import InstanceExited
from cnap_runner.model.instance import InstanceRef, InstanceStatus, Observation

LAST_WORDS = 5
"""Lines of output quoted when an instance ends at once."""

_NOT_FOUND = 404
_CONFLICT = 409


async def stop_container(engine: Engine, ref: InstanceRef, *, grace: timedelta) -> None:
    """End a container; one that is gone is ended. The engine thaws a paused one itself. Raises `EngineRefusal`."""
    try:
        await engine.post(
            f"/containers/{ref.handle}/stop",
            params={"t": math.ceil(grace.total_seconds())},
            wait_seconds=grace.total_seconds() + ANSWER_SECONDS,
        )
    except EngineRefusal as refusal:
        if refusal.status != _NOT_FOUND:
            raise


async def remove_container(engine: Engine, ref: InstanceRef) -> None:
    """Remove a container and its anonymous volumes, also where somebody else is just doing so. Raises `EngineRefusal`."""
    try:
        await engine.ask(lambda sdk: sdk.remove_container(ref.handle, v=True, force=True))
    except EngineRefusal as refusal:
        if refusal.status == _CONFLICT and "already in progress" in refusal.message:
            await _wait_until_removed(engine, ref)
        elif refusal.status != _NOT_FOUND:
            raise


async def exited(engine: Engine, seen: Observation) -> InstanceExited:
    """Make the error that says how a container ended, with its last words. Raises `EngineRefusal`."""
    words = await last_words(engine, seen.ref.handle, count=LAST_WORDS)
    how = "was never started" if seen.status is InstanceStatus.CREATED else f"ended with exit code {seen.exit_code}"
    why = " (out of memory)" if seen.is_oom_killed else ""
    said = f"; its last words: {words}" if words else ""
    return InstanceExited(f"Instance {seen.ref.instance_id} {how}{why}{said}.")


async def _wait_until_removed(engine: Engine, ref: InstanceRef) -> None:
    try:
        await engine.post(f"/containers/{ref.handle}/wait", params={"condition": "removed"})
    except EngineRefusal as refusal:
        if refusal.status != _NOT_FOUND:
            raise
