"""Holds: an instance stays because somebody says so, until a moment that is stored."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio

from cnap_runner.aio.lone import lone_errors
from cnap_runner.errors import InvalidInput
from cnap_runner.model.hold import Hold
from cnap_runner.model.ids import check_id, new_id
from cnap_runner.model.journal import DecisionKind
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note

RENEWED_FOR = timedelta(minutes=10)
"""How long a hold of a process that was killed lasts."""
LONGEST_OWNER = 100
"""Characters of an owner's name."""


async def hold(install: Install, agent_id: str, owner: str, until: datetime) -> Hold:
    """Keep an agent's instance until a moment, for an owner, and write that down. The same owner moves the end of the hold there is.

    Raises `InvalidInput`, `RunnerNotFound`.
    """
    made = Hold(check_id(agent_id), _checked(owner), until)
    if until.tzinfo is None:
        raise InvalidInput("A hold's end needs a time zone: nobody knows which moment it means.")
    if until <= install.now():
        raise InvalidInput("A hold must end in the future; `release` ends one.")
    await install.store.put_hold(made, at=install.now())
    reason = f"{made.owner} holds it until {until.isoformat(timespec='seconds')}"
    await note(install, made.agent_id, DecisionKind.HELD, reason, {"owner": made.owner, "until": until.isoformat()})
    return made


async def release(install: Install, agent_id: str, owner: str) -> bool:
    """End a hold; tell whether there was one. Raises `RunnerNotFound`."""
    await install.store.get_agent(check_id(agent_id))
    if not await install.store.drop_hold(agent_id, _checked(owner), at=install.now()):
        return False
    await note(install, agent_id, DecisionKind.RELEASED, f"{owner} released it", {"owner": owner})
    return True


async def sweep_holds(install: Install) -> None:
    """Forget the holds whose end has come."""
    for ended in await install.store.drop_ended_holds(at=install.now()):
        reason = f"the hold of {ended.owner} came to its end"
        await note(install, ended.agent_id, DecisionKind.RELEASED, reason, {"owner": ended.owner})


@asynccontextmanager
async def held_while(install: Install, agent_id: str, purpose: str) -> AsyncIterator[None]:
    """Hold an agent for a block that works inside its instance. Renewed while the block goes on, and not written down.

    Should its process be killed, the hold ends by itself after ``RENEWED_FOR``.
    """
    owner = new_id(f"{purpose}-{os.getpid()}")

    async def renew() -> None:
        while True:
            await anyio.sleep(RENEWED_FOR.total_seconds() / 3)
            await install.store.put_hold(Hold(agent_id, owner, install.now() + RENEWED_FOR), at=install.now())

    try:
        await install.store.put_hold(Hold(agent_id, owner, install.now() + RENEWED_FOR), at=install.now())
        with lone_errors():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(renew)
                yield
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await install.store.drop_hold(agent_id, owner, at=install.now())


def _checked(owner: str) -> str:
    if not owner or len(owner) > LONGEST_OWNER or not owner.isprintable():
        raise InvalidInput(f"A hold's owner is a name of 1 to {LONGEST_OWNER} characters.")
    return owner
