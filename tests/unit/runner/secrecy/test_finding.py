"""Secrets written out in a configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Layout
from cnap_runner.runner.provisioning.rendering import Provision, provision
from cnap_runner.runner.secrecy.finding import without_secrets
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.secrets.base import SecretStore
from cnap_runner.settings import Settings

LAYOUT = Layout(workspace="/workspace", state="/s", home="/h", settings="/settings", secrets="/run/secrets")
TOKEN = "sk-" + "a1" * 10


@pytest.mark.parametrize(
    ("config", "expected", "found"),
    [
        ({"apiKey": "plain"}, {"apiKey": "<>"}, [("plain", "c.apiKey")]),
        ({"headers": {"x-api-key": "plain"}}, {"headers": {"x-api-key": "<>"}}, [("plain", "c.headers.x-api-key")]),
        ({"token": ["one", "two"]}, {"token": ["<>", "<>"]}, [("one", "c.token"), ("two", "c.token")]),
        ({"url": f"https://h/{TOKEN}/x"}, {"url": "https://h/<>/x"}, [(TOKEN, "c.url")]),
        ({"url": "https://me:pw1@h/x"}, {"url": "https://me:<>@h/x"}, [("pw1", "c.url")]),
        (
            {"text": f"{TOKEN} and https://me:pw1@h/x."},
            {"text": "<> and https://me:<>@h/x."},
            [(TOKEN, "c.text"), ("pw1", "c.text")],
        ),
        ({"apiKey": "{file:/run/secrets/x}", "token": "Bearer ${X}"}, None, []),
        ({"apiKey": "unused", "password": "", "token": 5, "secret": None, "cookie": True}, None, []),
        ({"prompt": "Never write a password or token into a file."}, None, []),
    ],
)
def test_secrets_are_replaced_and_nothing_else(config: Any, expected: Any, found: list[tuple[str, str]]) -> None:
    """By their names and by their looks; each is told with its place."""
    seen: list[tuple[str, str]] = []

    def replace(value: str, path: tuple[str, ...]) -> str:
        seen.append((value, ".".join(path)))
        return "<>"

    assert without_secrets(config, ("c",), replace) == (config if expected is None else expected)
    assert seen == found


def render(template: dict[str, Any], **settings: Any) -> Provision:
    spec = AgentSpec(agent_id="alice", model="local/demo")
    resolver = Resolver(spec, SecretStore([]), {}, ())
    return provision(spec, template=template, layout=LAYOUT, settings=Settings(**settings), resolver=resolver)


def test_a_literal_of_the_installs_own_settings_is_in_no_settings_file() -> None:
    """A key in the template or in ``Settings.opencode`` reaches each agent as a file in memory, like any other secret."""
    options = {"provider": {"local": {"options": {"apiKey": "of-the-settings", "baseURL": "http://h/v1"}}}}
    server = {"mcp": {"x": {"type": "remote", "url": "https://h/mcp", "headers": {"Authorization": "of-the-template"}}}}
    given = render(server, opencode=options)
    assert sorted(given.secrets.values()) == ["of-the-settings", "of-the-template"]
    assert "of-the-" not in "".join(given.files.values()) + repr(given)
    config = json.loads(given.config)
    written = [config["provider"]["local"]["options"]["apiKey"], config["mcp"]["x"]["headers"]["Authorization"]]
    assert written == [f"{{file:/run/secrets/{name}}}" for name in sorted(given.secrets, key=given.secrets.__getitem__)]
