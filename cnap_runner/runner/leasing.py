"""Having an agent for one change: its lease, taken and given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from cnap_runner.errors import StoreError
from cnap_runner.runner.install import Install
from cnap_runner.store.base import Lease

LEASE_POLL_SECONDS = 0.05


@asynccontextmanager
async def leased(install: Install, agent_id: str, purpose: str) -> AsyncIterator[None]:
    """Have an agent for the block; waits until whoever has it now is done. Raises `StoreError`."""
    while True:
        async with leased_if_free(install, agent_id, purpose) as is_ours:
            if is_ours:
                yield
                return
        await anyio.sleep(LEASE_POLL_SECONDS)


@asynccontextmanager
async def leased_if_free(install: Install, agent_id: str, purpose: str) -> AsyncIterator[bool]:
    """Have an agent for the block if nobody has it now; gives whether that is so. Raises `StoreError`.

    Nothing stays of it, whenever its caller is cancelled; and what another coroutine of the same manager has is left alone.
    """
    lease = Lease(agent_id, install.manager_id, purpose, install.now())
    is_ours = True  # or may be: a call that is cancelled happens or not, and does not tell
    try:
        try:
            is_ours = await install.store.acquire_lease(
                agent_id, install.manager_id, purpose, at=lease.acquired_at, is_alive=install.is_alive
            )
        except StoreError:
            is_ours = False
            raise
        yield is_ours
    finally:
        if is_ours:
            with anyio.CancelScope(shield=True):
                await install.store.give_back(lease)
