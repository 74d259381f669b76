"""OpenCode's configuration, merged from its layers, and what is known to be wrong in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Layout
from cnap_runner.runner.provisioning.checking import MOST_BYTES, check_run_model, check_settings
from cnap_runner.runner.provisioning.configuration import configuration, providers_of
from cnap_runner.settings import Settings

LAYOUT = Layout(workspace="/workspace", state="/s", home="/h", settings="/settings", secrets="/run/secrets")
LOCAL = {
    "npm": "@ai-sdk/openai-compatible",
    "options": {"baseURL": "http://model:1/v1"},
    "models": {"small": {}, "big": {}},
}


def spec(**fields: Any) -> AgentSpec:
    return AgentSpec(**{"agent_id": "alice", "model": "anthropic/claude", **fields})


def merged(agent: AgentSpec, template: dict[str, Any] | None = None, **opencode: Any) -> dict[str, Any]:
    return configuration(agent, template=template or {}, settings=Settings(opencode=opencode), layout=LAYOUT)


def check(**fields: Any) -> None:
    agent = spec(**fields)
    check_settings(agent, merged(agent))


def test_each_layer_wins_over_the_one_below() -> None:
    """Template, install, agent; what a layer does not speak of stays."""
    template = {"a": 1, "b": 1, "c": 1, "nested": {"x": 1, "y": 1}}
    config = merged(spec(opencode={"c": 3, "nested": {"y": 3}}), template, b=2, c=2)
    assert (config["a"], config["b"], config["c"], config["nested"]) == (1, 2, 3, {"x": 1, "y": 3})


def test_an_mcp_server_replaces_one_of_its_name_whole() -> None:
    """A remote one over a local one keeps nothing of it; others stay, and one can be switched off by name."""
    template = {"mcp": {"x": {"type": "local", "command": ["old"]}, "y": {"type": "local", "command": ["y"]}}}
    agent = spec(mcp={"x": {"url": "https://x.example", "timeout": 9}}, opencode={"mcp": {"y": {"enabled": False}}})
    assert merged(agent, template)["mcp"] == {
        "x": {"type": "remote", "url": "https://x.example", "enabled": True, "timeout": 9},
        "y": {"type": "local", "command": ["y"], "enabled": False, "environment": {"OPENCODE_SERVER_PASSWORD": ""}},
    }


def test_rules_of_the_workspace_and_the_configuration_add_up() -> None:
    """The workspace's are named only where its own settings are switched off: else OpenCode finds them itself."""
    fields = {"opencode": {"instructions": ["more.md"]}}
    assert merged(spec(**fields))["instructions"] == ["/workspace/AGENTS.md", "more.md"]
    assert merged(spec(**fields, trust_workspace_config=True))["instructions"] == ["more.md"]


def test_a_base_url_may_be_spelt_as_python_does() -> None:
    """``base_url`` is OpenCode's ``baseURL``; the spec it came from is not changed."""
    agent = spec(opencode={"provider": {"local": {"options": {"base_url": "http://m/v1"}}}})
    before = json.dumps(agent.opencode)
    assert merged(agent)["provider"]["local"]["options"] == {"baseURL": "http://m/v1"}
    assert json.dumps(agent.opencode) == before


def test_keys_go_with_every_provider_the_settings_name() -> None:
    """Those of all models too, of agents in the configuration and in files."""
    agent = spec(
        opencode={"small_model": "openai/mini", "agent": {"r": {"model": "xai/grok"}}, "provider": {"local": {}}},
        opencode_files={"agents/w.md": "---\ndescription: x\nmodel: groq/fast\n---\nmodel: no/model"},
    )
    assert providers_of(merged(agent), agent) == ["anthropic", "groq", "local", "openai", "xai"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"opencode": {"provider": ["x"]}}, "opencode.provider maps names to objects, and is none"),
        ({"opencode": {"agent": {"x": 1}}}, "opencode.agent.x is no object"),
        ({"opencode": {"instructions": "a.md"}}, "opencode.instructions is no list of file names"),
        ({"opencode": {"provider": {"x": {"models": ["a"]}}}}, "opencode.provider.x.models is no object"),
        ({"opencode": {"provider": {"x": {"options": {"base_url": "m:1"}}}}}, "baseURL is no address"),
        ({"opencode": {"model": "openai/gpt"}}, "opencode.model differs from the agent's model anthropic/claude"),
        ({"opencode": {"small_model": "gpt"}}, "small_model: 'gpt' is not a model"),
        ({"opencode": {"agent": {"x": {"model": "gpt"}}}}, "agent.x.model: 'gpt' is not a model"),
        (
            {"model": "local/huge", "opencode": {"provider": {"local": LOCAL}}},
            "model is local/huge, and opencode.provider.local.models has no 'huge' (it has: big, small)",
        ),
        (
            {"mcp": {"x": {"command": ["a"]}}, "opencode": {"mcp": {"x": {"url": "http://a"}}}},
            "in both mcp and opencode.mcp",
        ),
        ({"mcp": {"a b": {"command": ["a"]}}}, "'a b' is no name of an MCP server"),
        (
            {"opencode_files": {"../x.md": ""}},
            "'../x.md' is neither AGENTS.md nor a file below agents/, commands/, skills/",
        ),
        ({"opencode_files": {"agents/../../x": ""}}, "is neither"),
        ({"opencode_files": {"/agents/x.md": ""}}, "is neither"),
        ({"opencode_files": {"agents": ""}}, "is neither"),
        ({"opencode_files": {"opencode.json": "{}"}}, "is neither"),
        ({"opencode_files": {"plugins/x.ts": ""}}, "is neither"),
        ({"opencode_files": {"agents//x.md": ""}}, "is neither"),
        ({"opencode_files": {"agents/\n.md": ""}}, "is neither"),
        ({"opencode_files": {"agents/a": "", "agents/a/b": ""}}, "'agents/a' cannot be both a file and a folder"),
        ({"opencode_files": {"AGENTS.md": "x" * (MOST_BYTES + 1)}}, "more than 256 files or 1 MiB"),
    ],
)
def test_what_is_known_to_be_wrong_is_said(fields: dict[str, Any], says: str) -> None:
    """Before anything is created, in words that name the place."""
    with pytest.raises(InvalidInput) as raised:
        check(**fields)
    assert says in raised.value.message


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Nobody mends one thing to hear of the next."""
    with pytest.raises(InvalidInput, match=r"opencode\.agent\.x is no object; small_model: "):
        check(opencode={"agent": {"x": 1}, "small_model": "gpt"})


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "local/small", "opencode": {"provider": {"local": LOCAL}, "unknown": {"to": ["us"]}}},
        {"model": "openai/new", "opencode": {"provider": {"openai": {"npm": "@ai-sdk/openai", "models": {"x": {}}}}}},
        {"opencode": {"provider": {"local": {"options": {"baseURL": "${WHERE}"}}}, "mcp": {"x": {"enabled": False}}}},
        {"opencode_files": {"AGENTS.md": "", "agents/a.md": "", "commands/b/c.md": "", "skills/d/SKILL.md": ""}},
    ],
)
def test_what_only_opencode_knows_passes(fields: dict[str, Any]) -> None:
    """Unknown fields, models of its catalogue, servers of the template."""
    check(**fields)


def test_a_runs_own_model_is_checked_as_far_as_it_can_be() -> None:
    """Of a known provider it passes, of an unknown one it does not; a trusted workspace may bring more."""
    agent = spec(opencode={"provider": {"local": LOCAL}})
    for model in (None, "anthropic/other", "local/big"):
        check_run_model(agent, model, merged(agent))
    with pytest.raises(InvalidInput, match="has no 'huge'"):
        check_run_model(agent, "local/huge", merged(agent))
    with pytest.raises(InvalidInput, match="no provider 'openai'") as raised:
        check_run_model(agent, "openai/gpt", merged(agent))
    assert "'openai': {}" in str(raised.value.hint)
    check_run_model(spec(trust_workspace_config=True), "openai/gpt", {})


def test_programs_of_mcp_servers_do_not_get_the_servers_password() -> None:
    """OpenCode hands its whole environment to them; here one variable of it is emptied, wherever a server is configured."""
    named = {"mine": {"command": ["a"], "environment": {"B": "c"}}, "far": {"url": "https://mcp.example.com/"}}
    servers = merged(spec(mcp=named, opencode={"mcp": {"other": {"type": "local", "command": ["d"]}}}))["mcp"]
    assert servers["mine"]["environment"] == {"OPENCODE_SERVER_PASSWORD": "", "B": "c"}
    assert servers["other"]["environment"] == {"OPENCODE_SERVER_PASSWORD": ""}
    assert "environment" not in servers["far"]
