"""AgentSpec: frozen, strict, one clear error."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.errors import InvalidInput, NotSupportedYet
from cnap_runner.model import agent
from cnap_runner.model.agent import AgentSpec, Life, Resources, refuse_unbuilt
from cnap_runner.model.durations import parse_duration


def spec(**fields: Any) -> AgentSpec:
    return AgentSpec(**{"agent_id": "alice", "model": "scripted/demo", **fields})


def test_nested_values_may_be_plain_dictionaries() -> None:
    """YAML and the API give dictionaries; they make the same spec."""
    assert spec(resources={"memory_mb": 1024}) == spec(resources=Resources(memory_mb=1024))


@pytest.mark.parametrize(
    ("value", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), (90, 90), ("90", 90), (timedelta(days=1), 86400)]
)
def test_durations_have_three_spellings(value: Any, seconds: int) -> None:
    """A timedelta, a number of seconds and text mean the same."""
    assert Life(max_run_time=value).max_run_time == timedelta(seconds=seconds)


@given(st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(days=1000)))
def test_a_timedelta_passes_through(value: timedelta) -> None:
    """A duration given as one is not changed."""
    assert parse_duration(value) == value


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"agent_id": "../x"}, "agent_id: '../x' is not an id"),
        ({"model": "gpt"}, "model: 'gpt' is not a model"),
        ({"model": "a/ b"}, "is not a model"),
        ({"modle": "x"}, "modle: there is no such field"),
        ({"resources": {"memory_mb": 100}}, "resources: memory_mb: input should be greater"),
        ({"resources": {"memory": 100}}, "memory: there is no such field"),
        ({"life": {"max_run_time": "soon"}}, "'soon' is not a duration"),
        ({"life": {"max_run_time": 0}}, "max_run_time"),
        ({"labels": {"cnap.agent.id": "x"}}, "names under 'cnap.' are ours"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], finding: str) -> None:
    """One error, ours, says which field is wrong and why."""
    with pytest.raises(InvalidInput) as caught:
        spec(**fields)
    assert finding in caught.value.message
    assert "\n" not in caught.value.message


def test_errors_do_not_repeat_values() -> None:
    """A value may be a secret; the error tells the field, not the value."""
    with pytest.raises(InvalidInput) as caught:
        spec(opencode="sk-very-secret")
    assert "sk-very-secret" not in str(caught.value)


def test_a_spec_is_frozen() -> None:
    """What others hold cannot be changed under them."""
    with pytest.raises(Exception, match="frozen"):
        spec().agent_id = "bob"  # type: ignore[misc]


def test_what_is_not_built_is_refused_never_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field without an effect yet is an error that names it."""
    monkeypatch.setattr(agent, "_LATER", (("life.max_age", None),))
    refuse_unbuilt(spec(life={"pause_after": "5m"}))
    with pytest.raises(NotSupportedYet, match=r"AgentSpec\.life\.max_age"):
        refuse_unbuilt(spec(life={"max_age": "5m"}))


@pytest.mark.parametrize(
    "answers",
    [
        {"permissions": {"": "ask"}},
        {"permissions": {":git *": "ask"}},
        {"permissions": {"git push": "ask"}},
        {"permissions": {"bash:a\nb": "ask"}},
        {"permissions": {"bash:" + "x" * 600: "ask"}},
        {"permissions": {"question": "ask"}},
        {"permissions": {"bash": "deny"}},
        {"questions": " "},
        {"questions": "x" * 5000},
        {"deadline": 0},
        {"fallback": "ask"},
    ],
)
def test_answers_that_cannot_be_are_refused(answers: dict[str, Any]) -> None:
    """A rule names a permission, an answer says something, and a fallback decides."""
    with pytest.raises(InvalidInput):
        spec(answers=answers)


def test_what_is_built_passes() -> None:
    """A spec that uses only what works is taken."""
    refuse_unbuilt(
        spec(system_prompt="Be brief.", resources={"cpus": 1.5}, life={"max_run_time": "10m"}, labels={"team": "a"})
    )


@given(
    st.builds(
        spec,
        system_prompt=st.none() | st.text(max_size=50),
        opencode=st.dictionaries(st.text(max_size=10), st.integers() | st.text(max_size=10), max_size=3),
        trust_workspace_config=st.booleans(),
    )
)
def test_a_spec_survives_json(value: AgentSpec) -> None:
    """What is stored is what was given."""
    assert AgentSpec.parse(json.loads(value.model_dump_json(by_alias=True))) == value


class Mute:
    """Nothing JSON knows."""


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), Mute(), {"deep": [{1, 2}]}, b"bytes"])
def test_configuration_that_cannot_be_stored_is_refused_at_once(value: Any) -> None:
    """OpenCode reads JSON: what that cannot hold is one clear error when the spec is made, not a failure later."""
    with pytest.raises(InvalidInput, match="opencode: it is OpenCode's JSON"):
        spec(opencode={"field": value})


@pytest.mark.parametrize(
    "fields",
    [
        {"system_prompt": "\ud800"},
        {"labels": {"team": "\ud800"}},
        {"mcp": {"server": {"command": ["\ud800"]}}},
        {"opencode_files": {"AGENTS.md": "\ud800"}},
    ],
)
def test_text_that_is_none_is_refused_at_once(fields: dict[str, Any]) -> None:
    """No file and no database takes what bytes leave behind that were read as if they were text."""
    with pytest.raises(InvalidInput, match="no text"):
        spec(**fields)
