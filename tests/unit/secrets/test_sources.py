"""What every source of secrets promises, tried on each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.errors import InvalidInput, SecretUnavailable
from cnap_runner.secrets.base import SCHEMES, SecretSource, SecretStore, WritableSource, is_reference
from cnap_runner.secrets.environment import EnvironmentSource
from cnap_runner.secrets.files import FileSource
from cnap_runner.secrets.keyring import KeyringSource
from cnap_runner.secrets.vault import Vault

VALUE = 'pa"ss\nwörd\\ {file:/etc/passwd} ${OTHER}'

Filled = Callable[[str, str], SecretSource]


@pytest.fixture(params=SCHEMES)
def filled(request: pytest.FixtureRequest, tmp_path: Path, vault: Vault, memory_keyring: Any) -> Filled:
    """Makes a source of one kind that has a secret."""

    def fill(name: str, value: str) -> SecretSource:
        match request.param:
            case "env":
                return EnvironmentSource({name: value}, ["*"])
            case "file":
                (tmp_path / "folder").mkdir(exist_ok=True)
                (tmp_path / "folder" / name).write_text(f"{value}\n")
                return FileSource(tmp_path / "folder")
            case "keyring":
                memory_keyring.kept["cnap-runner", name] = value
                return KeyringSource()
            case _:
                vault.put(name, value)
                return vault

    return fill


@pytest.fixture(params=["vault", "keyring"])
def writable(request: pytest.FixtureRequest, vault: Vault, memory_keyring: object) -> WritableSource:
    return vault if request.param == "vault" else KeyringSource()


def test_a_secret_comes_back_as_it_was_given(filled: Filled) -> None:
    """Whatever its text: line ends inside, quotes, other scripts."""
    assert filled("TOKEN", VALUE).get("TOKEN") == VALUE


def test_a_missing_secret_is_named_and_no_other_is_shown(filled: Filled) -> None:
    """The error says which one is missing; it holds no value of those that are there."""
    source = filled("TOKEN", "the-value-itself")
    with pytest.raises(SecretUnavailable, match="OTHER") as caught:
        source.get("OTHER")
    assert "the-value-itself" not in str(caught.value) + repr(source)


def test_a_store_finds_each_source_by_its_scheme(filled: Filled) -> None:
    """The part before the colon chooses the source, the rest is the name."""
    source = filled("TOKEN", VALUE)
    assert SecretStore([source]).get(f"{source.scheme}:TOKEN") == VALUE


def test_sources_describe_themselves_without_values(filled: Filled) -> None:
    """What is shown to people says where, not what."""
    assert "the-value-itself" not in filled("TOKEN", "the-value-itself").describe()


@pytest.mark.parametrize("reference", ["TOKEN", "sk-live-1", "vualt:TOKEN", ":TOKEN"])
def test_a_reference_of_no_known_scheme_is_refused_and_not_repeated(reference: str) -> None:
    """It could be the secret itself, given in the wrong place."""
    assert not is_reference(reference)
    with pytest.raises(InvalidInput, match="begins with env:") as caught:
        SecretStore([]).get(reference)
    assert reference not in str(caught.value)


def test_a_reference_needs_a_name() -> None:
    """A scheme alone says nothing."""
    assert not is_reference("vault:")


def test_what_was_put_is_there_until_it_is_deleted(writable: WritableSource) -> None:
    """A second value replaces the first; deleting says whether there was anything."""
    writable.put("TOKEN", "first")
    writable.put("TOKEN", VALUE)
    assert writable.get("TOKEN") == VALUE
    assert writable.delete("TOKEN") is True
    assert writable.delete("TOKEN") is False
    with pytest.raises(SecretUnavailable, match="TOKEN"):
        writable.get("TOKEN")


@pytest.mark.parametrize("name", ["", ".", "../x", "a//b", "/a", "a/", "a b", "a\nb", "-x", "x" * 201])
def test_a_name_that_is_none_is_refused(writable: WritableSource, name: str) -> None:
    """Names are plain, so that they fit a file, a command line and a keyring."""
    for use in (writable.get, writable.delete, lambda bad: writable.put(bad, "value")):
        with pytest.raises(InvalidInput, match="not a secret's name"):
            use(name)


@pytest.mark.parametrize("value", ["", "a\0b"])
def test_a_value_that_cannot_be_used_is_refused(writable: WritableSource, value: str) -> None:
    """An empty secret is a mistake made while typing it."""
    with pytest.raises(InvalidInput, match="TOKEN"):
        writable.put("TOKEN", value)


def test_only_some_sources_can_be_written(filled: Filled) -> None:
    """The environment and files belong to somebody else."""
    source = filled("TOKEN", VALUE)
    store = SecretStore([source])
    if source.scheme in {"vault", "keyring"}:
        assert store.writable(source.scheme) is source
    else:
        with pytest.raises(InvalidInput, match=source.scheme):
            store.writable(source.scheme)


def test_variables_that_are_not_admitted_are_not_given() -> None:
    """A service for others narrows ``env_allow``."""
    source = EnvironmentSource({"TEAM_TOKEN": "yes", "AWS_SECRET": "no", "TEAM_EMPTY": ""}, ["TEAM_*"])
    assert source.get("TEAM_TOKEN") == "yes"
    with pytest.raises(SecretUnavailable, match="AWS_SECRET may not be given"):
        source.get("AWS_SECRET")
    assert [source.has(name) for name in ("TEAM_TOKEN", "AWS_SECRET", "TEAM_EMPTY", "TEAM_NONE")] == [True] + 3 * [
        False
    ]


def test_a_missing_library_is_one_clear_error(no_keyring_library: None) -> None:
    """Whoever asks for the keyring is told how to get it."""
    with pytest.raises(SecretUnavailable, match=r"cnap-runner\[keyring\]"):
        KeyringSource().get("TOKEN")


def test_a_machine_without_a_keyring_is_one_clear_error(memory_keyring: object) -> None:
    """A server has none; the vault is named instead."""
    import keyring
    from keyring.backends.fail import Keyring

    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]
    with pytest.raises(SecretUnavailable, match="no keyring that can be used"):
        KeyringSource().put("TOKEN", "value")


def test_a_change_can_be_seen_without_reading(vault: Vault, tmp_path: Path) -> None:
    """A file's and the vault's stamps differ after a change; whoever cannot tell gives none, and what is missing has none."""
    store = SecretStore([vault, FileSource(tmp_path), EnvironmentSource({"A": "x"}, ["*"])])
    references = ["vault:A", "file:a", "env:A", "no reference"]
    assert [store.stamp(reference) for reference in references] == [None] * 4
    vault.put("A", "x")
    (tmp_path / "a").write_text("x")
    before = [store.stamp(reference) for reference in references]
    vault.put("A", "y")
    (tmp_path / "b").write_text("y")
    (tmp_path / "b").replace(tmp_path / "a")
    after = [store.stamp(reference) for reference in references]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False, False]
