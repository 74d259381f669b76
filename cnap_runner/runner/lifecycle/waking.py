"""Waking a frozen instance: tens of milliseconds, against seconds of a start."""

from __future__ import annotations

from cnap_runner.errors import InstanceExited, InstanceNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.lifecycle.limits import idle_from, limits_of


async def thaw(install: Install, live: LiveInstance) -> bool:
    """Let a frozen instance go on, with the connections there are; tell whether it still exists. One that is not frozen goes on anyway."""
    try:
        await install.backend.resume(live.ref)
    except (InstanceExited, InstanceNotFound):
        return False
    live.life.is_frozen = False
    return True


async def note_woken(install: Install, spec: AgentSpec, record: RunnerRecord) -> RunnerRecord:
    """Write that a paused instance goes on; its idle clock starts anew. The caller holds the agent's lease."""
    now = install.now()
    woken = idle_from(record.woken(at=now), limits_of(install, spec), now)
    await install.save_runner(woken)
    slept = None if record.changed_at is None else round((now - record.changed_at).total_seconds(), 3)
    evidence = {"paused_seconds": slept, "instance": record.instance_id}
    await note(install, record.agent_id, DecisionKind.RESUMED, "somebody needed it", evidence)
    return woken
