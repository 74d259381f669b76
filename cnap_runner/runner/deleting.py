"""Agents that are forgotten, with or without their files; and an install of which nothing is to be left."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio.to_thread

from cnap_runner.errors import RunnerNotFound
from cnap_runner.model.ids import check_id
from cnap_runner.runner.chronicle import note_deletion
from cnap_runner.runner.reach import Reach
from cnap_runner.runner.secrecy.literals import drop_literals
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.store.base import WishKind

if TYPE_CHECKING:
    from cnap_runner.runner.parts import Parts


async def delete_agent(parts: Parts, agent_id: str, *, with_files: bool) -> None:
    """Stop and remove an agent's instance and forget the agent; ``with_files`` also all that it left. An unknown id is no error.

    Idempotent: what is interrupted half-way is done by the next call.
    """
    install = parts.install
    check_id(agent_id)
    try:
        await install.store.get_agent(agent_id)
    except RunnerNotFound:
        if not with_files:
            return
    parts.runs.used.discard(agent_id)
    async with parts.emptied(agent_id, WishKind.DELETE):
        with contextlib.suppress(RunnerNotFound):  # deleted before; only its files are left
            # Ended first, so that its record says so and nobody takes the removal for a death.
            await parts.instances.discard((await install.store.get_agent(agent_id)).runner, reason="it is deleted")
        await install.store.mark_deleted(agent_id, at=install.now())
        if with_files:
            await anyio.to_thread.run_sync(AgentFolders(install.settings.data_dir, agent_id).delete)
            await install.store.erase_agent(agent_id)
            await drop_literals(install, agent_id)
        await note_deletion(install, agent_id, with_files=with_files)


async def purge(parts: Parts) -> None:
    """Remove all agents with their files, deleted ones too, all instances, and what they shared: networks and what guards them. Idempotent."""
    install = parts.install
    for row in (*await install.store.list_agents(), *await install.store.list_deleted()):
        await delete_agent(parts, row.agent_id, with_files=True)
    for observation in await install.backend.list_instances(install.install_id):
        await install.backend.remove(observation.ref, grace=install.settings.stop_timeout)
    await Reach(install).purge()
    await install.backend.purge(install.install_id)
