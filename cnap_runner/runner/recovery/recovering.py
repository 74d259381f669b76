"""Recovering an agent because somebody asks for it: from every state, and as often as they like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnap_runner.errors import RunnerError
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.runner.journal import note
from cnap_runner.telemetry.logging import get_logger

if TYPE_CHECKING:
    from cnap_runner.model.runner import RunnerRecord
    from cnap_runner.runner.parts import Parts

_log = get_logger(__name__)


async def recover_agent(parts: Parts, agent_id: str) -> None:
    """Bring an agent to a ready instance. Idempotent; workspace and sessions are never touched.

    A crash loop is forgiven, runs that a dead manager left are brought to their true end, and whatever does not answer is replaced. A
    turn that somebody living drives is no trouble: it goes on, and nothing else is done. Raises as a start does, and why a run that was left could not be brought to its end.
    """
    install = parts.install
    was_given_up = await install.store.forgive(agent_id, at=install.now())
    try:
        await parts.runs.abandoned.begin(agent_id).wait()
    except RunnerError as error:
        # What follows may be what it needs.
        _log.warning("settlement_failed", agent_id=agent_id, error=str(error))
    queue = await install.store.queue_of(agent_id)
    if queue and not parts.runs.abandoned.is_abandoned(queue[0]):
        return
    await _make_ready(parts, agent_id, was_given_up=was_given_up)
    await parts.runs.abandoned.begin(agent_id).wait()


async def _make_ready(parts: Parts, agent_id: str, *, was_given_up: bool) -> None:
    install = parts.install
    async with parts.leased(agent_id, "recover"):
        await parts.instances.distrust(agent_id)
        row = await install.store.get_agent(agent_id)
        _, present = await parts.instances.ensure(row)
        if present.status is not row.runner.status and present.generation == row.runner.generation:
            await install.save_runner(present)
        if was_given_up or present.generation != row.runner.generation:
            await _note(parts, row.runner, was_given_up=was_given_up)


async def _note(parts: Parts, before: RunnerRecord, *, was_given_up: bool) -> None:
    why = "" if before.reason is None else f": {before.reason}"
    reason = f"somebody asked to recover it; it was {before.status}{why}"
    evidence: Evidence = {"cause": "request", "was": str(before.status), "was_given_up": was_given_up}
    await note(parts.install, before.agent_id, DecisionKind.RECOVERED, reason, evidence)
