"""What a manager's callers ask of the life cycle: a pause, figures, and to be the install's keeper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from cnap_runner.errors import ConflictError, InvalidInput, StoreError
from cnap_runner.model.ids import check_id
from cnap_runner.model.runner import LIVE_STATUSES, RunnerStatus
from cnap_runner.model.stats import Stats
from cnap_runner.runner.install import Install
from cnap_runner.runner.lifecycle.holding import held_while
from cnap_runner.runner.lifecycle.waking import note_woken
from cnap_runner.telemetry.logging import get_logger

if TYPE_CHECKING:
    from cnap_runner.runner.parts import Parts

_log = get_logger(__name__)

KEEPER_LOOK_SECONDS = 2.0
"""How often the install's keeper looks whether anything is left to keep."""


async def pause_agent(parts: Parts, agent_id: str) -> None:
    """Freeze an agent's instance now, held or not. Paused already: nothing happens.

    Raises `RunnerNotFound`, `InvalidInput` where the backend cannot freeze, `ConflictError` without an instance and in a turn.
    """
    store = parts.install.store
    _check_pausable((await store.get_agent(check_id(agent_id))).runner.status, agent_id)
    if not parts.install.backend.capabilities.can_pause:
        raise InvalidInput("This machine's backend cannot freeze instances.", hint="`stop` ends one.")
    async with parts.leased(agent_id, "pause"):
        row = await store.get_agent(agent_id)
        _check_pausable(row.runner.status, agent_id)
        if row.runner.status is RunnerStatus.READY:
            await parts.instances.steps.pause_now(row, reason="it was asked to pause")


def _check_pausable(status: RunnerStatus, agent_id: str) -> None:
    if status is RunnerStatus.RUNNING:
        raise ConflictError(f"Agent {agent_id} is in a turn.", hint=f"`cnap-runner abort {agent_id}` ends it.")
    if status not in {RunnerStatus.READY, RunnerStatus.PAUSED}:
        raise ConflictError(f"Agent {agent_id} is {status}: there is nothing to freeze.")


@asynccontextmanager
async def inside(parts: Parts, agent_id: str, purpose: str) -> AsyncIterator[None]:
    """Have an agent's instance awake for a block that works inside it: it is thawed, and not frozen or stopped meanwhile. Starts none."""
    install = parts.install
    async with held_while(install, agent_id, purpose):
        if (await install.store.get_agent(agent_id)).runner.status is RunnerStatus.PAUSED:
            await _wake(parts, agent_id, purpose)
        yield


async def _wake(parts: Parts, agent_id: str, purpose: str) -> None:
    """Thaw a paused instance as it is: what changed in the agent's spec is its next turn's business."""
    async with parts.leased(agent_id, purpose):
        row = await parts.install.store.get_agent(agent_id)
        is_paused = row.runner.status is RunnerStatus.PAUSED
        if is_paused and await parts.instances.use_as_it_is(row.runner) is not None:
            await note_woken(parts.install, row.spec, row.runner)


async def count_agents(install: Install) -> Stats:
    """Count the install's agents, and what was decided about them."""
    return Stats.of(await install.store.count_statuses(), await install.store.decision_totals())


async def claim_keeper(install: Install) -> bool:
    """Become the install's keeper, unless another one lives. Idempotent."""
    return await install.store.claim_keeper(install.manager_id, install.is_alive)


async def be_keeper(install: Install) -> bool:
    """Be the install's keeper until no agent has a live instance. False at once where another one lives."""
    store = install.store
    if not await claim_keeper(install):
        return False
    while True:
        try:
            is_empty = LIVE_STATUSES.isdisjoint(await store.count_statuses())
            if is_empty and await store.retire_keeper(install.manager_id):
                return True
        except StoreError as error:
            _log.warning("keeper_not_retired", error=str(error))
        await anyio.sleep(KEEPER_LOOK_SECONDS)


async def needs_keeper(install: Install) -> bool:
    """Whether live instances are left and no keeper lives that would see to them."""
    if LIVE_STATUSES.isdisjoint(await install.store.count_statuses()):
        return False
    return await install.store.find_keeper(install.is_alive) is None
