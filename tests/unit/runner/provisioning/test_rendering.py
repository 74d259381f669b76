"""Settings and secrets rendered for one instance."""

import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Layout
from cnap_runner.runner.provisioning.configuration import merge
from cnap_runner.runner.provisioning.rendering import (
    Provision,
    check_keys_stay,
    environment,
    limits_of,
    pack,
    provision,
    settings_hash,
)
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.secrets.base import SecretSource, SecretStore
from cnap_runner.settings import Settings

LAYOUT = Layout(workspace="/workspace", state="/s", home="/h", settings="/settings", secrets="/run/secrets")
TEMPLATE = {"permission": "allow", "watcher": {"follow": False}}


def spec(**fields: Any) -> AgentSpec:
    return AgentSpec(**{"agent_id": "alice", "model": "anthropic/claude", **fields})


class Vault(SecretSource):
    """Keeps what a test puts into it."""

    scheme = "vault"

    def __init__(self, **kept: str) -> None:
        self._kept = kept

    def get(self, name: str) -> str:
        return self._kept[name]

    def describe(self) -> str:
        return "a test"


def render(
    agent: AgentSpec, variables: dict[str, str] | None = None, vault: Vault | None = None, **settings: Any
) -> Provision:
    given = Settings(**settings)
    resolver = Resolver(agent, SecretStore([vault or Vault()]), variables or {}, given.env_allow)
    return provision(agent, template=TEMPLATE, layout=LAYOUT, settings=given, resolver=resolver)


def test_the_agents_own_settings_win_over_the_template_key_by_key() -> None:
    """A nested key is replaced, its neighbours stay."""
    config = json.loads(render(spec(opencode={"watcher": {"ignore": ["*.log"]}})).config)
    assert config["watcher"] == {"follow": False, "ignore": ["*.log"]}
    assert config["model"] == "anthropic/claude"


def test_a_providers_key_becomes_a_file_in_memory() -> None:
    """The usual variable of the model's provider reaches the agent as a reference; its value is nowhere but among the secrets."""
    given = render(spec(), {"ANTHROPIC_API_KEY": "key-of-anthropic", "OPENAI_API_KEY": "key-of-openai"})
    options = json.loads(given.config)["provider"]["anthropic"]["options"]
    assert options["apiKey"] == "{file:/run/secrets/env-ANTHROPIC_API_KEY}"
    assert given.secrets == {"env-ANTHROPIC_API_KEY": "key-of-anthropic"}
    assert "key-of-" not in given.config + repr(given)


def test_an_agent_gets_no_key_of_a_provider_it_does_not_use() -> None:
    """Least right: only the providers its model and settings name."""
    given = render(spec(model="openai/gpt"), {"ANTHROPIC_API_KEY": "a-key", "OPENAI_API_KEY": "o-key"})
    assert set(given.secrets.values()) == {"o-key"}


def test_a_key_of_its_own_is_not_replaced() -> None:
    """What the spec says about a key is what counts."""
    agent = spec(opencode={"provider": {"anthropic": {"options": {"apiKey": "{file:/workspace/key}"}}}})
    given = render(agent, {"ANTHROPIC_API_KEY": "a-key"})
    assert json.loads(given.config)["provider"]["anthropic"]["options"]["apiKey"] == "{file:/workspace/key}"
    assert given.secrets == {}


def test_placeholders_come_from_the_environment_as_secrets() -> None:
    """``${NAME}`` renders as a file reference, wherever it stands in a text."""
    agent = spec(opencode={"provider": {"x": {"options": {"headers": ["Bearer ${MY_TOKEN}"]}}}})
    given = render(agent, {"MY_TOKEN": "t0ken-value"})
    headers = json.loads(given.config)["provider"]["x"]["options"]["headers"]
    assert headers == ["Bearer {file:/run/secrets/env-MY_TOKEN}"]
    assert given.secrets == {"env-MY_TOKEN": "t0ken-value"}


def test_a_missing_variable_is_named() -> None:
    """The error says which variable has no value."""
    with pytest.raises(InvalidInput, match=r"\$\{MY_TOKEN\} in x"):
        render(spec(opencode={"x": "${MY_TOKEN}"}))


def test_a_variable_that_is_not_let_through_counts_as_missing() -> None:
    """A service for others narrows what its users' specs may read of its own environment."""
    with pytest.raises(InvalidInput, match="MY_TOKEN"):
        render(spec(opencode={"x": "${MY_TOKEN}"}), {"MY_TOKEN": "value"}, env_allow=("OTHER_*",))


def test_a_workspaces_own_settings_are_switched_off_unless_trusted() -> None:
    """Whoever writes the workspace must not rule the agent; its AGENTS.md is brought back by name."""
    guarded, trusted = [
        environment(spec(trust_workspace_config=t), layout=LAYOUT, settings=Settings()) for t in (False, True)
    ]
    assert guarded["OPENCODE_DISABLE_PROJECT_CONFIG"] == "1"
    assert "OPENCODE_DISABLE_PROJECT_CONFIG" not in trusted
    # What is named by this variable is read before the workspace's settings, the configuration folder after them.
    assert ("OPENCODE_CONFIG" in guarded, trusted["OPENCODE_CONFIG"]) == (
        False,
        f"{LAYOUT.settings}/opencode/base.json",
    )
    assert "opencode/opencode.json" not in render(spec(trust_workspace_config=True)).files
    assert json.loads(render(spec()).config)["instructions"] == ["/workspace/AGENTS.md"]
    assert "instructions" not in json.loads(render(spec(trust_workspace_config=True)).config)


def test_the_archive_holds_each_secret_readable_by_its_owner_alone() -> None:
    """What the launcher unpacks is 0400, the server's password along with the rest."""
    packed = render(spec(), {"ANTHROPIC_API_KEY": "k" * 8}).archive("pass")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        modes = {entry.name: entry.mode for entry in archive}
    assert modes == {"env-ANTHROPIC_API_KEY": 0o400, "server-password": 0o400}


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4))
def test_packed_secrets_unpack_to_what_they_were(files: dict[str, str]) -> None:
    """No value is changed on its way."""
    with tarfile.open(fileobj=io.BytesIO(pack(files))) as archive:
        unpacked = {entry.name: archive.extractfile(entry) for entry in archive}
        assert {name: file.read().decode() for name, file in unpacked.items() if file} == files


@pytest.mark.parametrize(
    "change",
    [
        {"model": "openai/gpt"},
        {"opencode": {"a": 1}},
        {"opencode_files": {"AGENTS.md": "x"}},
        {"mcp": {"s": {"command": ["x"]}}},
        {"secrets": {"A": "env:A"}},
    ],
)
def test_what_a_server_reads_changes_the_settings_hash(change: dict[str, Any]) -> None:
    """A running instance with another hash is told to read its settings again."""
    assert hash_of(spec()) != hash_of(spec(**change))


@pytest.mark.parametrize("change", [{"system_prompt": "Be brief."}, {"life": {"max_run_time": 9}}])
def test_what_is_sent_with_each_prompt_changes_nothing(change: dict[str, Any]) -> None:
    """A running instance goes on as it is."""
    assert hash_of(spec()) == hash_of(spec(**change))


def hash_of(agent: AgentSpec) -> str:
    return settings_hash(agent, template=TEMPLATE, layout=LAYOUT, settings=Settings())


def test_a_providers_key_may_be_one_of_the_agents_secrets() -> None:
    """Its usual name in ``secrets`` wins over the manager's variable."""
    agent = spec(secrets={"ANTHROPIC_API_KEY": "vault:team"})
    given = render(agent, {"ANTHROPIC_API_KEY": "of-the-manager"}, Vault(team="of-the-team"))
    assert given.secrets == {"env-ANTHROPIC_API_KEY": "of-the-team"}


def test_a_process_without_a_providers_key_does_not_take_it_away() -> None:
    """What another process gave to a running instance is not replaced by nothing."""
    before = render(spec(), {"ANTHROPIC_API_KEY": "k" * 8}).config
    with pytest.raises(InvalidInput, match="ANTHROPIC_API_KEY is not set"):
        check_keys_stay(before, render(spec()), spec=spec(), layout=LAYOUT)
    own = spec(opencode={"provider": {"anthropic": {"options": {"apiKey": "{file:/workspace/key}"}}}})
    for present, agent in [
        (before, own),
        (before, spec(model="openai/gpt")),
        (render(spec()).config, spec()),
        ("?", spec()),
    ]:
        check_keys_stay(present, render(agent), spec=agent, layout=LAYOUT)


def test_limits_left_out_come_from_the_settings() -> None:
    """An agent's own limit wins, the rest is the install's."""
    limits = limits_of(spec(resources={"memory_mb": 512}), Settings(memory_mb=4096, cpus=3, pids=100))
    assert (limits.memory_bytes, limits.cpus, limits.pids) == (512 << 20, 3, 100)


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=3), json_values, max_size=4),
    st.dictionaries(st.text(max_size=3), json_values, max_size=4),
)
def test_merging_keeps_what_is_not_spoken_of(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Every key of both is there; neither side is changed."""
    before = json.dumps([base, over], sort_keys=True)
    merged = merge(base, over)
    assert set(merged) == set(base) | set(over)
    assert merge(merged, over) == merged
    assert json.dumps([base, over], sort_keys=True) == before
