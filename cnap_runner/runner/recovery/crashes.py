"""Whether an agent's instances crash again and again: read from its decision log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cnap_runner.errors import CrashLooping
from cnap_runner.model.journal import Decision, DecisionKind
from cnap_runner.runner.chronicle import UNWATCHED
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.store.base import AgentRow

_DEATHS = frozenset({DecisionKind.DIED, DecisionKind.OOM_KILLED})
_CRASH_CODES = frozenset({"instance_exited", "out_of_memory", "server_not_ready"})
"""Codes of failed starts that are the instance's doing. That an image is missing, or an engine away, says nothing about the agent."""
_READ_AT_LEAST = 100


async def refuse_crash_loop(install: Install, row: AgentRow) -> None:
    """Raise `CrashLooping` where an agent was given up, or is now: too many of its instances ended within the window.

    Those that were found dead after a reconnection do not count: an engine that restarts ends them all. Exit codes do not count (FAILURES row 17): an instance that ends by itself again and again with code 0 is of no more use.
    """
    agent_id, settings = row.spec.agent_id, install.settings
    if row.gave_up_at is not None:
        raise _given_up(agent_id, row.runner.reason or "its containers crashed again and again", since=row.gave_up_at)
    now = install.now()
    since = max(now - settings.crash_window, row.forgiven_at or now - settings.crash_window)
    limit = max(_READ_AT_LEAST, 4 * settings.crash_limit)
    crashed = crashes(await install.store.list_decisions(agent_id, limit=limit), since=since)
    if len(crashed) < settings.crash_limit:
        return
    reason = f"{len(crashed)} of its containers crashed within {_told(settings.crash_window)}; the last one: {crashed[-1].reason}"
    await install.save_runner(row.runner.failed(reason=reason, at=now))
    if await install.store.give_up(agent_id, at=now):
        evidence = {"crashes": len(crashed), "window_seconds": settings.crash_window.total_seconds()}
        await note(install, agent_id, DecisionKind.GAVE_UP, reason, evidence)
    raise _given_up(agent_id, reason, since=now)


def crashes(newest_first: Sequence[Decision], *, since: datetime) -> list[Decision]:
    """Select the crashes since a moment, oldest first, each instance's once: one that dies while it starts is written down twice."""
    found: dict[object, Decision] = {}
    for number, decision in enumerate(newest_first):
        if decision.at >= since and _is_crash(decision):
            found.setdefault(decision.evidence.get("instance_id") or number, decision)
    return list(reversed(found.values()))


def _is_crash(decision: Decision) -> bool:
    if decision.kind in _DEATHS:
        return not decision.evidence.get(UNWATCHED)
    return decision.kind is DecisionKind.START_FAILED and decision.evidence.get("error") in _CRASH_CODES


def _given_up(agent_id: str, reason: str, *, since: datetime) -> CrashLooping:
    hint = (
        f"Look at what ends them (`cnap-runner explain {agent_id}`, `cnap-runner logs {agent_id}`); then change its settings, or "
        f"`cnap-runner recover {agent_id}`. Its workspace and sessions are kept."
    )
    return CrashLooping(f"Agent {agent_id} is not started since {since:%Y-%m-%d %H:%M} UTC: {reason}.", hint=hint)


def _told(window: timedelta) -> str:
    seconds = window.total_seconds()
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
