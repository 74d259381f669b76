"""Declared agents: what is wanted of them compared with what is known. Pure; `RunnerManager.apply` does what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.durations import duration_text
from cnap_runner.secrets.base import is_reference
from cnap_runner.telemetry.redaction import REPLACEMENT, Redactor

_OTHERS = "opencode"
"""Begins the paths of those fields in whose values nothing and not there may differ: they are OpenCode's own."""


class Action(StrEnum):
    """What becomes of an agent."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    """Its files and sessions stay."""
    KEEP = "unchanged"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field whose value differs. None stands for a field that is not there."""

    path: str
    """``resources.memory_mb``; a key with a dot in it reads ``opencode_files["AGENTS.md"]``."""
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class AgentChange:
    """What becomes of one agent."""

    agent_id: str
    action: Action
    fields: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """What `RunnerManager.apply` did, or with ``dry_run`` would do. Secrets in it are redacted."""

    agents: tuple[AgentChange, ...]
    """Those that were declared, in their order, then those to be deleted."""

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to do."""
        return any(agent.action is not Action.KEEP for agent in self.agents)

    def count(self, action: Action | str) -> int:
        """Count the agents this becomes of; an action's plain name (``create``) will do."""
        return sum(agent.action == action for agent in self.agents)


def plan_of(known: Mapping[str, AgentSpec], wanted: Sequence[AgentSpec], *, prune: str | None = None) -> ApplyPlan:
    """Compare declared specs with the known ones.

    Agents that are not declared are left alone, unless ``prune`` (``label=value``) names a label that they carry. Raises `InvalidInput`
    for an agent declared twice, and for one without the label of ``prune``: later nobody could tell that it had been declared.
    """
    declared: dict[str, AgentSpec] = {}
    for spec in wanted:
        if spec.agent_id in declared:
            raise InvalidInput(f"agent {spec.agent_id} is declared twice.", hint="Leave one of the two out.")
        declared[spec.agent_id] = spec
    deleted = () if prune is None else _pruned(known, declared, prune)
    changes = [_change(known.get(agent_id), spec) for agent_id, spec in declared.items()]
    return ApplyPlan((*changes, *(AgentChange(agent_id, Action.DELETE) for agent_id in deleted)))


def differences(old: AgentSpec | None, new: AgentSpec) -> tuple[FieldChange, ...]:
    """Name each field that differs, by path. A default that is written out and one that is left out are the same."""
    before = {} if old is None else dict(_leaves(spec_data(old, is_whole=True)))
    after = dict(_leaves(spec_data(new, is_whole=old is not None)))
    paths = [*after, *(path for path in before if path not in after)]
    return tuple(
        FieldChange(path, before.get(path), after.get(path))
        for path in paths
        if (path in before, before.get(path)) != (path in after, after.get(path))
    )


def spec_data(spec: AgentSpec, *, is_whole: bool = False) -> dict[str, Any]:
    """Give a spec as plain data that `AgentSpec.parse` reads: what was given, or with ``is_whole`` defaults too."""
    data = _plain(spec.model_dump(by_alias=True, exclude_unset=not is_whole))
    return {str(key): value for key, value in data.items()}


def redacted(plan: ApplyPlan, redactor: Redactor) -> ApplyPlan:
    """Take secrets out of a plan; that a value differs was found out before."""
    return ApplyPlan(
        tuple(
            replace(agent, fields=tuple(_redacted(field, redactor) for field in agent.fields)) for agent in plan.agents
        )
    )


def _change(old: AgentSpec | None, new: AgentSpec) -> AgentChange:
    fields = differences(old, new)
    if old is None:
        return AgentChange(new.agent_id, Action.CREATE, fields)
    return AgentChange(new.agent_id, Action.CHANGE if fields else Action.KEEP, fields)


def _pruned(known: Mapping[str, AgentSpec], declared: Mapping[str, AgentSpec], prune: str) -> list[str]:
    label, separator, value = str(prune).partition("=")
    if not (label and separator):
        raise InvalidInput(f"{prune!r} is no label: write label=value.")
    if bare := [spec.agent_id for spec in declared.values() if spec.labels.get(label) != value]:
        raise InvalidInput(
            f"agent {bare[0]} is declared without the label {prune}, by which agents are to be deleted.",
            hint=f"Put `labels: {{{label}: {value}}}` on each agent that is declared here.",
        )
    return [
        agent_id for agent_id, spec in known.items() if spec.labels.get(label) == value and agent_id not in declared
    ]


def _leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        step = f'["{key}"]' if "." in key else f".{key}" if path else key
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path + step)
        elif path.startswith(_OTHERS) or value not in (None, {}):
            # A field of ours without a value and one that is not there are the same.
            yield path + step, value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, timedelta):
        return duration_text(value)
    return str(value) if isinstance(value, Path) else value


def _redacted(field: FieldChange, redactor: Redactor) -> FieldChange:
    def shown(value: Any) -> Any:
        if field.path.startswith("secrets."):
            # Where a secret comes from is for the reader, and nothing else that may stand there.
            return value if value is None or is_reference(value) else REPLACEMENT
        name = field.path.rpartition(".")[2]
        return redactor.redact_data({name: value})[name]

    return replace(field, old=shown(field.old), new=shown(field.new))
