"""Writing down why things are done. Nothing fails because it could not be written down."""

from __future__ import annotations

from cnap_runner.errors import StoreError
from cnap_runner.model.journal import Decision, DecisionKind, Evidence
from cnap_runner.runner.install import Install
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


async def told(install: Install, agent_id: str, *, limit: int) -> list[Decision]:
    """Give the newest decisions about an agent, deleted ones included, oldest first. Raises `RunnerNotFound` for one that never was."""
    found = await install.store.list_decisions(agent_id, limit=limit)
    if not found:
        await install.store.get_agent(agent_id)
    return found[::-1]


async def note(
    install: Install, agent_id: str, kind: DecisionKind, reason: str, evidence: Evidence | None = None
) -> None:
    """Write a decision into the agent's log and into ours. Raises nothing: one that cannot be stored is logged alone."""
    reason = install.redactor.redact(reason)
    decision = Decision(agent_id, kind, reason, install.now(), evidence or {}, install.manager_id)
    _log.info("decided", agent_id=agent_id, kind=str(kind), reason=reason, **(evidence or {}))
    try:
        await install.store.add_decision(decision)
    except StoreError as trouble:
        _log.warning("decision_not_stored", agent_id=agent_id, kind=str(kind), error=str(trouble))
