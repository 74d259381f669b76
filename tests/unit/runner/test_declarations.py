"""Declared agents compared with known ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cnap_runner import AgentSpec
from cnap_runner.errors import InvalidInput
from cnap_runner.model.durations import duration_text, parse_duration
from cnap_runner.runner.declarations import Action, FieldChange, differences, plan_of, redacted, spec_data
from cnap_runner.telemetry.redaction import Redactor

ALICE: dict[str, Any] = {"agent_id": "alice", "model": "fake/demo"}


def alice(**fields: Any) -> AgentSpec:
    return AgentSpec.parse({**ALICE, **fields})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, []),
        ({}, {"resources": {}, "system_prompt": None, "labels": {}}, []),
        ({}, {"egress": {"mode": "open"}}, []),
        ({}, {"model": "fake/other"}, [("model", "fake/demo", "fake/other")]),
        ({}, {"resources": {"memory_mb": 512}}, [("resources.memory_mb", None, 512)]),
        ({"system_prompt": "x"}, {}, [("system_prompt", "x", None)]),
        ({"life": {"max_run_time": "90s"}}, {"life": {"max_run_time": timedelta(seconds=90)}}, []),
        ({"life": {"max_run_time": "5m"}}, {"life": {"max_run_time": 90}}, [("life.max_run_time", "5m", "1m30s")]),
        (
            {"opencode": {"provider": {"fake": {"options": {"a": 1, "b": 2}}}}},
            {"opencode": {"provider": {"fake": {"options": {"a": 1, "b": 3}}}}},
            [("opencode.provider.fake.options.b", 2, 3)],
        ),
        ({"opencode": {"a": None}}, {}, [("opencode.a", None, None)]),
        (
            {"opencode": {"models": {"a": {}}}},
            {"opencode": {"models": {"a": {}, "b": {}}}},
            [("opencode.models.b", None, {})],
        ),
        ({}, {"opencode_files": {"AGENTS.md": "x"}}, [('opencode_files["AGENTS.md"]', None, "x")]),
        (
            {"mcp": {"m": {"command": ["a", "b"]}}},
            {"mcp": {"m": {"type": "local", "command": ["a", "c"]}}},
            [("mcp.m.command", ["a", "b"], ["a", "c"])],
        ),
    ],
)
def test_each_differing_field_is_named(old: Any, new: Any, expected: list[tuple[str, Any, Any]]) -> None:
    """Values count, not how they were written; and nothing that differs is missed."""
    assert list(differences(alice(**old), alice(**new))) == [FieldChange(*change) for change in expected]


def test_a_plan_creates_changes_keeps_and_leaves_others_alone() -> None:
    """Agents that are not declared are none of its business."""
    bob = AgentSpec(agent_id="bob", model="fake/demo")
    known = {"alice": alice(), "bob": bob, "carol": AgentSpec(agent_id="carol", model="fake/demo")}
    wanted = [bob, alice(model="fake/other"), AgentSpec(agent_id="dave", model="fake/demo")]
    plan = plan_of(known, wanted)
    assert [(agent.agent_id, agent.action) for agent in plan.agents] == [
        ("bob", Action.KEEP),
        ("alice", Action.CHANGE),
        ("dave", Action.CREATE),
    ]
    assert plan.has_changes
    assert FieldChange("model", None, "fake/demo") in plan.agents[2].fields


def test_what_was_applied_leaves_nothing_to_do() -> None:
    """Applied twice, the second has no changes."""
    spec = alice(life={"max_run_time": "5m"}, labels={"team": "web"})
    assert not plan_of({"alice": spec}, [alice(life={"max_run_time": 300}, labels={"team": "web"})]).has_changes


def test_an_agent_declared_twice_is_refused() -> None:
    """Nobody could say which of the two is meant."""
    with pytest.raises(InvalidInput, match="alice is declared twice"):
        plan_of({}, [alice(), alice(model="fake/other")])


def test_only_agents_of_the_label_are_deleted() -> None:
    """Pruning ends what carries the label and is no longer declared; what was made otherwise stays."""
    known = {
        "alice": alice(labels={"team": "web"}),
        "bob": AgentSpec(agent_id="bob", model="fake/demo", labels={"team": "web"}),
        "carol": AgentSpec(agent_id="carol", model="fake/demo"),
        "dave": AgentSpec(agent_id="dave", model="fake/demo", labels={"team": "ops"}),
    }
    plan = plan_of(known, [alice(labels={"team": "web"})], prune="team=web")
    assert [agent.agent_id for agent in plan.agents if agent.action is Action.DELETE] == ["bob"]


@pytest.mark.parametrize(("prune", "message"), [("team", "no label"), ("team=web", "without the label")])
def test_pruning_that_would_lose_track_is_refused(prune: str, message: str) -> None:
    """A declared agent without the label could never be pruned later."""
    with pytest.raises(InvalidInput, match=message):
        plan_of({}, [alice()], prune=prune)


def test_a_plan_shows_where_secrets_come_from_and_never_their_values() -> None:
    """References are for the reader; values are not."""
    spec = alice(
        secrets={"API_KEY": "vault:alice/API_KEY"},
        opencode={"provider": {"fake": {"options": {"apiKey": "0123-very-secret"}}}},
        mcp={"m": {"url": "https://example.com", "headers": {"Authorization": "${API_KEY}", "X": "known-value-1"}}},
    )
    plan = redacted(plan_of({}, [spec]), Redactor(["known-value-1"]))
    shown = {field.path: field.new for field in plan.agents[0].fields}
    assert shown["secrets.API_KEY"] == "vault:alice/API_KEY"
    assert shown["opencode.provider.fake.options.apiKey"] == "[redacted]"
    assert shown["mcp.m.headers.Authorization"] == "${API_KEY}"
    assert shown["mcp.m.headers.X"] == "[redacted]"


def test_a_spec_as_data_is_read_back_as_the_same_spec() -> None:
    """What is shown can be declared."""
    spec = alice(
        life={"max_run_time": "1h30m"}, workspace={"copy": "/srv/seed"}, mcp={"m": {"command": ["x"], "timeout": 5}}
    )
    assert AgentSpec.parse(spec_data(spec)) == spec


@pytest.mark.parametrize("seconds", [0.5, 1, 59, 60, 90, 3600, 5400, 86400, 90061])
def test_a_written_duration_is_read_back(seconds: float) -> None:
    """Spelling loses nothing."""
    assert parse_duration(duration_text(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


def test_an_action_is_counted_by_its_plain_name_too() -> None:
    """``plan.count("create")`` is what one writes first."""
    plan = plan_of({}, [AgentSpec(agent_id="a", model="f/m")])
    assert (plan.count("create"), plan.count(Action.CREATE), plan.count("delete")) == (1, 1, 0)


def test_a_label_that_is_no_text_is_refused() -> None:
    """One error of ours, not one of Python's."""
    with pytest.raises(InvalidInput, match="label=value"):
        plan_of({}, [], prune={})  # type: ignore[arg-type]
