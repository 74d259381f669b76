"""Secrets that were written into a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnap_runner import AgentSpec, RunnerManager
from cnap_runner.errors import InvalidInput, SecretUnavailable, SecretWarning
from cnap_runner.runner.secrecy.literals import Taken, take_literals
from cnap_runner.secrets.vault import FILE, Vault

KEY = bytes(32)
VALUE = "the-value-itself-1"


def spec_of(**fields: Any) -> AgentSpec:
    return AgentSpec(**{"agent_id": "alice", "model": "fake/demo", **fields})


def take(**fields: Any) -> Taken:
    return take_literals(spec_of(**fields), key=KEY)


def only_reference(taken: Taken) -> tuple[str, str]:
    """The one name that was given, checked against its entry and its value."""
    ((vault_name, value),) = taken.literals.items()
    ((name, reference),) = taken.spec.secrets.items()
    assert reference == f"vault:{vault_name}"
    assert vault_name.startswith(f"alice/{name}.")
    assert value not in taken.spec.model_dump_json() + "".join(taken.warnings)
    return name, value


PROVIDER = {"provider": {"my-llm": {"options": {"apiKey": VALUE, "baseURL": "http://localhost/v1"}}}}
SERVER = {"github": {"url": "https://mcp.example/mcp", "headers": {"Authorization": f"Bearer {VALUE}"}}}
PROGRAM = {"files": {"command": ["files", "--all"], "environment": {"FILES_TOKEN": VALUE, "MODE": "fast"}}}


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"secrets": {"TOKEN": VALUE}}, "TOKEN", VALUE),
        ({"secrets": {"TOKEN": f"literal:{VALUE}"}}, "TOKEN", VALUE),
        ({"secrets": {"TOKEN": "literal:vault:odd"}}, "TOKEN", "vault:odd"),
        ({"opencode": PROVIDER}, "PROVIDER_MY_LLM_OPTIONS_APIKEY", VALUE),
        ({"mcp": SERVER}, "MCP_GITHUB_HEADERS_AUTHORIZATION", f"Bearer {VALUE}"),
        ({"mcp": PROGRAM}, "MCP_FILES_ENVIRONMENT_FILES_TOKEN", VALUE),
        ({"opencode": {"mcp": {"x": {"oauth": {"clientSecret": VALUE}}}}}, "MCP_X_OAUTH_CLIENTSECRET", VALUE),
        ({"workspace": {"git": "https://me:p%40ss-word@git.example/r.git"}}, "WORKSPACE_GIT", "p@ss-word"),
        ({"workspace": {"git": f"https://ghp_{'a1' * 18}@github.com/r.git"}}, "WORKSPACE_GIT", f"ghp_{'a1' * 18}"),
        ({"mcp": {"x": {"command": ["x", f"--key=sk-{'a1' * 10}"]}}}, "MCP_X_COMMAND", f"sk-{'a1' * 10}"),
        ({"mcp": {"x": {"url": "https://h.example/?api_key=a1b2c3d4e5"}}}, "MCP_X_URL", "a1b2c3d4e5"),
    ],
)
def test_a_literal_leaves_the_spec(fields: dict[str, Any], name: str, value: str) -> None:
    """Wherever it stands, its place is taken by a name, and one warning names the better way."""
    taken = take(**fields)
    assert only_reference(taken) == (name, value)
    assert "secrets" in fields or f"${{{name}}}" in taken.spec.model_dump_json()
    (warning,) = taken.warnings
    assert f"`cnap-runner secret set {name}`" in warning
    assert f'"vault:{name}"' in warning


@pytest.mark.parametrize(
    "fields",
    [
        {"secrets": {"A": "env:A", "B": "file:/run/secrets/b", "C": "keyring:C", "D": "vault:D"}},
        {"opencode": {"provider": {"x": {"options": {"apiKey": "${KEY}", "token": "{file:/k}", "password": ""}}}}},
        {"mcp": {"x": {"url": "https://h.example/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}}}},
        {"opencode": {"provider": {"local": {"options": {"apiKey": "unused", "token": "NONE"}}}}},
        {"opencode": {"permission": {"read": {"*credentials": "deny"}, "bash": {"*password": "ask"}}}},
        {"opencode": {"agent": {"token": {"permission": {"edit": {"*.secret": "deny"}}}}, "small_model": "a/b"}},
        {"workspace": {"git": "https://git@github.com/owner/repository.git", "branch": "main"}},
        {"workspace": {"git": "https://me:${GIT_PASSWORD}@git.example/r.git"}},
        {"workspace": {"git": "ssh://git@git.example/r.git"}},
    ],
)
def test_what_holds_no_secret_stays_as_it_is(fields: dict[str, Any]) -> None:
    """References, empty values, words for no key, patterns of permissions, addresses without a password."""
    assert take(**fields) == (spec_of(**fields), {}, ())


def test_the_rest_of_the_spec_stays() -> None:
    """Neighbours, order and the kinds of values are untouched, and the spec is still a valid one."""
    taken = take(opencode=PROVIDER, mcp=SERVER | PROGRAM, secrets={"OTHER": "env:OTHER"}, system_prompt="Be brief.")
    again = AgentSpec.model_validate_json(taken.spec.model_dump_json(by_alias=True))
    assert again == taken.spec
    assert again.secrets["OTHER"] == "env:OTHER"
    assert again.opencode["provider"]["my-llm"]["options"]["baseURL"] == "http://localhost/v1"
    assert again.model_dump()["mcp"]["files"]["environment"]["MODE"] == "fast"
    assert again.system_prompt == "Be brief."


def test_taking_is_idempotent() -> None:
    """The same spec gives the same references, and a spec that was read back is not changed again."""
    first = take(opencode=PROVIDER)
    assert take(opencode=PROVIDER) == first
    assert take_literals(first.spec, key=KEY) == (first.spec, {}, ())


def test_another_value_is_another_reference() -> None:
    """That it changed can be seen; without the install's key nothing more can."""
    references = {
        take_literals(spec_of(secrets={"TOKEN": value}), key=key).spec.secrets["TOKEN"]
        for value in ("one-value", "another")
        for key in (KEY, b"1" * 32)
    }
    assert len(references) == 4


def test_a_new_literal_in_the_same_place_has_the_same_name() -> None:
    """A spec that was read back and got a new key does not keep the old one."""
    before = take(opencode=PROVIDER).spec
    options = {"apiKey": "a-newer-value-2"}
    after = take_literals(
        before.model_copy(update={"opencode": {"provider": {"my-llm": {"options": options}}}}), key=KEY
    )
    assert after.spec.secrets.keys() == before.secrets.keys()
    assert after.spec.secrets != before.secrets


def test_names_do_not_collide() -> None:
    """Neither with the user's own secrets nor with each other."""
    servers = {"a-b": {"options": {"apiKey": "one-value"}}, "a.b": {"options": {"apiKey": "another"}}}
    taken = take(opencode={"provider": servers}, secrets={"PROVIDER_A_B_OPTIONS_APIKEY": "env:MINE"})
    assert taken.spec.secrets["PROVIDER_A_B_OPTIONS_APIKEY"] == "env:MINE"
    assert len(taken.spec.secrets) == 3
    assert sorted(taken.literals.values()) == ["another", "one-value"]


def test_an_old_name_still_used_elsewhere_is_left_to_it() -> None:
    """Another place with the same name does not overwrite it."""
    before = take(opencode={"provider": {"a-b": {"options": {"apiKey": "one-value"}}}}).spec
    provider = {**before.opencode["provider"], "a.b": {"options": {"apiKey": "another"}}}
    after = take_literals(before.model_copy(update={"opencode": {"provider": provider}}), key=KEY).spec
    assert before.secrets.items() < after.secrets.items()


@pytest.mark.parametrize("secrets", [{"A B": "env:X"}, {"1A": "env:X"}, {"": "env:X"}, {"A": ""}, {"A": "literal:"}])
def test_names_and_values_that_cannot_work_are_refused(secrets: dict[str, str]) -> None:
    """Before anything is stored."""
    with pytest.raises(InvalidInput):
        take(secrets=secrets)


@pytest.fixture
def vault(manager: RunnerManager) -> Vault:
    data_dir = manager.settings.data_dir
    return Vault(data_dir, (data_dir / "install.key").read_bytes())


def test_a_place_with_a_long_name_is_no_trouble() -> None:
    """The name that is made for it fits the vault."""
    taken = take(
        agent_id="a" * 64,
        mcp={"m" * 60: {"url": "https://h.example/", "headers": {"x-token": VALUE, "y" * 200 + "-token": VALUE}}},
    )
    assert len(taken.literals) == 2
    assert max(map(len, taken.literals)) < 200


async def test_a_literal_is_nowhere_in_the_data_folder(manager: RunnerManager, vault: Vault) -> None:
    """Database, its log, settings: none holds it; the vault gives it back."""
    with pytest.warns(SecretWarning, match="secret set PROVIDER_MY_LLM_OPTIONS_APIKEY"):
        runner = await manager.create_runner(spec_of(opencode=PROVIDER))
    assert VALUE not in runner.spec.model_dump_json()
    assert _found_in(manager.settings.data_dir, VALUE) == []
    ((name, reference),) = runner.spec.secrets.items()
    assert name == "PROVIDER_MY_LLM_OPTIONS_APIKEY"
    assert vault.get(reference.removeprefix("vault:")) == VALUE


async def test_a_replaced_literal_leaves_the_vault(manager: RunnerManager, vault: Vault) -> None:
    """What no spec names any more is forgotten; what another agent names stays."""
    vault.put("MINE", "the user's own")
    vault.put("alice/SPARE", "set by hand, not used yet")
    with pytest.warns(SecretWarning):
        first = await manager.create_runner(spec_of(secrets={"TOKEN": VALUE}))
    shared = first.spec.secrets["TOKEN"]
    await manager.create_runner(spec_of(agent_id="bob", secrets={"TOKEN": shared}))
    with pytest.warns(SecretWarning):
        await manager.create_runner(spec_of(secrets={"TOKEN": "another-value"}))
    assert len(vault.names()) == 4
    await manager.create_runner(spec_of())
    assert vault.names() == ["MINE", "alice/SPARE", shared.removeprefix("vault:")]


async def test_a_declared_literal_that_is_kept_already_is_no_change(manager: RunnerManager) -> None:
    """Applying a file twice finds nothing to do, and the difference shown holds no value."""
    with pytest.warns(SecretWarning):
        first = await manager.apply([spec_of(opencode=PROVIDER)])
    again = await manager.apply([spec_of(opencode=PROVIDER)])
    assert (first.has_changes, again.has_changes) == (True, False)
    assert VALUE not in repr(first) + repr(again)


async def test_deleting_an_agent_with_its_files_forgets_its_literals(manager: RunnerManager, vault: Vault) -> None:
    """They stay with the files, and end with them."""
    with pytest.warns(SecretWarning):
        await manager.create_runner(spec_of(secrets={"TOKEN": VALUE}))
    await manager.delete_runner("alice")
    assert len(vault.names()) == 1
    await manager.delete_runner("alice", delete_workspace=True)
    assert vault.names() == []


async def test_a_warning_made_an_error_stores_nothing(manager: RunnerManager, vault: Vault) -> None:
    """Whoever wants literals refused asks Python for it."""
    with pytest.raises(SecretWarning):  # the tests make warnings errors
        await manager.create_runner(spec_of(secrets={"TOKEN": VALUE}))
    assert vault.names() == []
    assert await manager.list_runners() == []


async def test_a_damaged_vault_is_in_no_other_agents_way(manager: RunnerManager) -> None:
    """Agents without a secret in it are created and deleted as ever; one with a literal is refused."""
    (manager.settings.data_dir / FILE).write_text("damaged")
    await manager.create_runner(spec_of())
    with pytest.warns(SecretWarning), pytest.raises(SecretUnavailable, match="damaged"):
        await manager.create_runner(spec_of(agent_id="bob", secrets={"TOKEN": VALUE}))
    await manager.delete_runner("alice", delete_workspace=True)
    assert await manager.list_runners() == []


def _found_in(folder: Path, value: str) -> list[str]:
    texts = (value.encode(), json.dumps(value)[1:-1].encode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(text in path.read_bytes() for text in texts)]


@pytest.mark.parametrize("value", ["nope:x", "envv:TOKEN", "vault:", "env:"])
def test_a_mistyped_source_is_no_literal(value: str) -> None:
    """It is refused without being repeated; what is meant literally says so, and an address with a password is a value."""
    with pytest.raises(InvalidInput, match=r"secrets\.C") as caught:
        take(secrets={"C": value})
    assert "TOKEN" not in str(caught.value)
    assert list(take(secrets={"C": f"literal:{value}"}).literals.values()) == [value]


def test_an_address_with_its_password_may_be_a_secret() -> None:
    """Data sources are kept so."""
    assert only_reference(take(secrets={"DSN": "postgres://me:pw-of-mine@db/x"}))[0] == "DSN"


def test_a_field_that_was_not_given_is_not_shown() -> None:
    """Taking a literal out of one field spells out no other."""
    assert take(opencode=PROVIDER).spec.model_fields_set == {"agent_id", "model", "secrets", "opencode"}
