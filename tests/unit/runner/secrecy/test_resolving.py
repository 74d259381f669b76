"""What ``${NAME}`` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cnap_runner import AgentSpec
from cnap_runner.errors import InvalidInput, SecretUnavailable
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.secrets.base import SecretSource, SecretStore
from cnap_runner.secrets.environment import EnvironmentSource
from cnap_runner.secrets.files import FileSource


class CountingSource(SecretSource):
    """Counts how often it is read."""

    scheme = "vault"

    def __init__(self) -> None:
        self.reads: list[str] = []

    def get(self, name: str) -> str:
        self.reads.append(name)
        return f"value of {name}"

    def describe(self) -> str:
        return "a list"


def resolver(
    secrets: Mapping[str, str],
    variables: Mapping[str, str],
    *,
    allow: tuple[str, ...] = ("*",),
    folder: Path = Path("/no"),
) -> tuple[Resolver, CountingSource]:
    vault = CountingSource()
    store = SecretStore([EnvironmentSource(variables, allow), FileSource(folder), vault])
    spec = AgentSpec(agent_id="alice", model="fake/demo", secrets=dict(secrets))
    return Resolver(spec, store, variables, allow), vault


def test_the_agents_own_secret_wins_over_a_variable_of_that_name() -> None:
    """What the spec says counts; other names come from the environment."""
    made, _ = resolver({"TOKEN": "vault:mine"}, {"TOKEN": "of the environment", "OTHER": "other"})
    assert made.value("TOKEN") == "value of mine"
    assert made.value("OTHER") == "other"


def test_making_one_reads_nothing_and_each_name_is_read_once() -> None:
    """A process that lacks a variable can use what runs; a keyring asks its user once."""
    made, vault = resolver({"A": "vault:a", "B": "env:MISSING"}, {})
    assert (made.has("A"), made.has("B"), made.has("C")) == (True, True, False)
    assert vault.reads == []
    made.value("A")
    made.value("A")
    assert vault.reads == ["a"]


def test_a_name_without_a_value_is_named_with_its_agent_and_its_place() -> None:
    """And the error says how it gets one."""
    made, _ = resolver({}, {})
    with pytest.raises(SecretUnavailable) as caught:
        made.value("TOKEN", where="mcp.github.headers")
    assert "Agent alice needs ${TOKEN} in mcp.github.headers: The variable TOKEN is not set." in caught.value.message
    assert "cnap-runner secret set TOKEN" in str(caught.value.hint)


def test_a_reference_without_a_value_is_named_too(tmp_path: Path) -> None:
    """Which source was asked can be seen."""
    made, _ = resolver({"TOKEN": "file:token"}, {"TOKEN": "not taken instead"}, folder=tmp_path)
    with pytest.raises(
        SecretUnavailable, match=r"Agent alice needs \$\{TOKEN\} \(file:token\): .*token cannot be read"
    ):
        made.value("TOKEN")


def test_what_the_settings_do_not_admit_is_not_taken() -> None:
    """Neither by name nor by reference."""
    made, _ = resolver({"MINE": "env:AWS_KEY"}, {"AWS_KEY": "no", "TEAM_KEY": "yes"}, allow=("TEAM_*",))
    assert made.value("TEAM_KEY") == "yes"
    for name in ("AWS_KEY", "MINE"):
        assert made.has("AWS_KEY") is False
        with pytest.raises(SecretUnavailable, match="AWS_KEY may not be given"):
            made.value(name)


def test_a_text_in_place_of_a_reference_is_refused_and_not_repeated() -> None:
    """A spec that went past `create_runner` could hold one."""
    made, _ = resolver({"TOKEN": "sk-the-value"}, {})
    with pytest.raises(InvalidInput) as caught:
        made.value("TOKEN")
    assert "sk-the-value" not in str(caught.value)
