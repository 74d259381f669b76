"""What is written into an agent's decision log of its beginnings and ends: made, changed, started, adopted, stopped, died, deleted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cnap_runner.errors import StoreError
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.run import RunResult
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.store.base import AgentRow

UNWATCHED = "found_after_reconnecting"
"""Evidence of a death that nobody saw: it says nothing about the agent."""
RECENT = 30
"""Decisions that are looked through for an earlier one of the same kind."""

_OCCASIONS = {
    "start": "it was asked to start",
    "recover": "it was asked to recover",
}
"""What a lease was taken for, as the reason of a start."""


@dataclass(frozen=True, slots=True)
class Death:
    """How an instance ended by itself."""

    reason: str
    """In plain words."""
    exit_code: int | None = None
    is_oom_killed: bool = False
    peak: int | None = None
    """The most memory it had, in bytes, where that could be measured."""
    is_unwatched: bool = False
    """Whether it was found when the engine could be asked again, whose end may have been the cause."""

    @classmethod
    def of(cls, exit_code: int | None, *, is_oom_killed: bool, peak: int | None = None) -> Death:
        """Say it of an instance whose exit was seen."""
        return cls(died_because(exit_code, is_oom_killed=is_oom_killed), exit_code, is_oom_killed, peak)

    def with_limit(self, limit: int | None) -> Death:
        """Say of one that ran out of memory what it was allowed, in bytes, and what it had."""
        if limit is None:
            return self
        had = "" if self.peak is None else f", {self.peak >> 20} MiB at its peak"
        return replace(self, reason=f"{self.reason}; its limit was {limit >> 20} MiB, and it wanted more{had}")

    @property
    def kind(self) -> DecisionKind:
        """How it is counted."""
        return DecisionKind.OOM_KILLED if self.is_oom_killed else DecisionKind.DIED


def died_because(exit_code: int | None, *, is_oom_killed: bool = False) -> str:
    """Say in plain words how an instance ended."""
    if is_oom_killed:
        return "it was killed for want of memory (CNAP_RUNNER_MEMORY_MB, or the agent's resources, give it more)"
    if exit_code is None:
        return "it ended by itself"
    if exit_code > 128:
        return f"it was killed by signal {exit_code - 128}"
    return f"it ended by itself with exit code {exit_code}"


async def note_spec(install: Install, before: AgentRow | None, row: AgentRow) -> None:
    """Write that an agent was made, or which fields of its spec changed; never their values. The same spec again: nothing."""
    if before is None:
        has_past = row.created_at != row.updated_at
        reason = "it was made again, with the files and sessions it had left" if has_past else "it was made"
        await note(install, row.agent_id, DecisionKind.CREATED, reason, {"model": row.model})
    elif fields := _differing(before, row):
        reason = f"its spec was changed: {fields}"
        await note(install, row.agent_id, DecisionKind.CHANGED, reason, {"fields": fields})


def _differing(before: AgentRow, row: AgentRow) -> str:
    """Name the fields in which two specs differ; one that cannot be read any more differs in all of them."""
    if before.stored == row.stored:
        return ""
    spec = row.spec
    try:
        former = before.spec
    except StoreError:
        return "all of it"
    return ", ".join(name for name in type(spec).model_fields if getattr(spec, name) != getattr(former, name))


async def note_start(install: Install, record: RunnerRecord, *, took_seconds: float) -> None:
    """Write that a new instance is ready, and what it was needed for: that is what its lease was taken for."""
    lease = await install.store.get_lease(record.agent_id)
    purpose, _, run_id = (lease.purpose if lease is not None else "").partition(":")
    reason = "a run needed it" if purpose == "run" else _OCCASIONS.get(purpose, "it was needed")
    evidence = {**_which(record), "run_id": run_id or None, "took_seconds": round(took_seconds, 1)}
    await note(install, record.agent_id, DecisionKind.STARTED, reason, _told(evidence))


async def note_failed_start(install: Install, record: RunnerRecord, reason: str, *, code: str) -> None:
    """Write that a start failed. ``code`` is the error's."""
    await note(install, record.agent_id, DecisionKind.START_FAILED, reason, {**_which(record), "error": code})


async def note_adoption(install: Install, record: RunnerRecord) -> None:
    """Write that this manager took over an instance of another's; only the first time in the instance's life.

    Each command of a command line is a manager of its own: written each time, the log would tell of nothing else.
    """
    recent = await install.store.list_decisions(record.agent_id, limit=RECENT)
    known = {decision.evidence.get("instance_id") for decision in recent if decision.kind is DecisionKind.ADOPTED}
    if record.instance_id in known:
        return
    reason = "a manager that had not started it took it over"
    await note(install, record.agent_id, DecisionKind.ADOPTED, reason, _which(record))


async def note_end(
    install: Install, record: RunnerRecord, kind: DecisionKind, reason: str, evidence: Evidence | None = None
) -> None:
    """Write that an instance was ended on purpose, with what that was decided by."""
    await note(install, record.agent_id, kind, reason, {**_which(record), **(evidence or {})})


async def note_death(install: Install, record: RunnerRecord, death: Death, evidence: Evidence | None = None) -> None:
    """Write that an instance ended by itself; of one that ran out of memory also what it was allowed."""
    limit = record.limits.memory_bytes >> 20 if death.is_oom_killed and record.limits is not None else None
    peak = None if death.peak is None else death.peak >> 20
    told = _told({**_which(record), "exit_code": death.exit_code, "memory_limit_mb": limit, "memory_peak_mb": peak})
    told = {**told, UNWATCHED: True} if death.is_unwatched else told
    await note(install, record.agent_id, death.kind, death.reason, {**told, **(evidence or {})})


async def note_deletion(install: Install, agent_id: str, *, with_files: bool) -> None:
    """Write that an agent was forgotten; its log is kept."""
    left = "with its files and sessions" if with_files else "its files and sessions stay"
    await note(install, agent_id, DecisionKind.DELETED, f"it was deleted, {left}")


def _which(record: RunnerRecord) -> dict[str, str | int | float | bool | None]:
    return {"instance_id": record.instance_id, "generation": record.generation}


def _told(evidence: Evidence) -> Evidence:
    """Leave out what is not known."""
    return {name: value for name, value in evidence.items() if value is not None}


async def note_limit(install: Install, result: RunResult) -> None:
    """Write that a turn reached its time limit and was aborted."""
    seconds = round(result.duration.total_seconds(), 1)
    reason = f"its turn was not done after {seconds:g} s; what it said until then is in the result"
    evidence: Evidence = {"run": result.run_id, "task": result.task_id, "seconds": seconds}
    await note(install, result.agent_id, DecisionKind.ABORTED_LIMIT, reason, evidence)
