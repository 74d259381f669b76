"""Declared agents, applied."""

from __future__ import annotations

from typing import Any

import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus
from cnap_runner.errors import InvalidInput, RunnerNotFound
from cnap_runner.runner.declarations import Action

BOB = AgentSpec(agent_id="bob", model="fake/demo")


def actions(plan: Any) -> list[tuple[str, str]]:
    return [(agent.agent_id, str(agent.action)) for agent in plan.agents]


async def test_applied_twice_the_second_has_nothing_to_do(manager: RunnerManager, spec: AgentSpec) -> None:
    """What is declared is made so, once."""
    first = await manager.apply([spec, BOB])
    second = await manager.apply([spec, BOB])
    assert actions(first) == [("alice", "create"), ("bob", "create")]
    assert (actions(second), second.has_changes) == ([("alice", "unchanged"), ("bob", "unchanged")], False)


async def test_a_change_names_the_field_and_keeps_the_rest(manager: RunnerManager, spec: AgentSpec) -> None:
    """Old and new value are told; agents that are not named stay as they are."""
    await manager.apply([spec, BOB])
    plan = await manager.apply([spec.model_copy(update={"model": "fake/other"})])
    assert [(field.path, field.old, field.new) for field in plan.agents[0].fields] == [
        ("model", "fake/demo", "fake/other")
    ]
    assert (await manager.get_runner("alice")).spec.model == "fake/other"
    assert (await manager.get_runner("bob")).spec == BOB


async def test_a_dry_run_changes_nothing(manager: RunnerManager, spec: AgentSpec) -> None:
    """It only looks."""
    plan = await manager.apply([spec], dry_run=True)
    assert actions(plan) == [("alice", "create")]
    assert await manager.list_runners() == []


async def test_one_bad_spec_and_nothing_is_changed(manager: RunnerManager, spec: AgentSpec) -> None:
    """Half a declaration is never made."""
    wrong = AgentSpec.parse({"agent_id": "carol", "model": "fake/demo", "opencode": {"mcp": 7}})
    with pytest.raises(InvalidInput):
        await manager.apply([spec, wrong])
    with pytest.raises(InvalidInput, match="declared twice"):
        await manager.apply([spec, spec])
    assert await manager.list_runners() == []


async def test_pruning_deletes_what_is_no_longer_declared(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Any
) -> None:
    """Its instance ends, its files stay; what does not carry the label is left alone."""
    labelled = spec.model_copy(update={"labels": {"team": "web"}})
    other = BOB.model_copy(update={"labels": {"team": "web"}})
    await manager.apply([labelled, other])
    await manager.create_runner(AgentSpec(agent_id="carol", model="fake/demo"))
    await (await manager.get_runner("bob")).run(ask())
    plan = await manager.apply([labelled], prune="team=web")
    assert [agent.agent_id for agent in plan.agents if agent.action is Action.DELETE] == ["bob"]
    with pytest.raises(RunnerNotFound):
        await manager.get_runner("bob")
    assert [runner.agent_id for runner in await manager.list_runners()] == ["alice", "carol"]
    assert (house.data_dir / "workspace" / "bob").is_dir()
    back = await manager.apply([other], prune=None)
    assert actions(back) == [("bob", "create")]
    assert (await manager.get_runner("bob")).status is not RunnerStatus.READY
