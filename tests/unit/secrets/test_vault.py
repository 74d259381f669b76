"""The encrypted file."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from cnap_runner.errors import SecretUnavailable
from cnap_runner.secrets.vault import FILE, Vault

KEY = bytes(range(32))


def test_the_file_holds_no_value_and_nobody_else_may_read_it(vault: Vault, tmp_path: Path) -> None:
    """Encrypted, 0600, and no draft is left beside it."""
    vault.put("TOKEN", "the-value-itself")
    assert b"the-value-itself" not in (tmp_path / FILE).read_bytes()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secrets.lock", FILE]


def test_the_same_value_is_never_the_same_text_twice(vault: Vault, tmp_path: Path) -> None:
    """Who sees the file cannot tell equal secrets, nor that one was set anew to what it was."""
    vault.put("A", "same")
    vault.put("B", "same")
    values = json.loads((tmp_path / FILE).read_text())["values"]
    vault.put("A", "same")
    assert len({*values.values(), json.loads((tmp_path / FILE).read_text())["values"]["A"]}) == 3


def test_a_vault_without_a_file_is_empty(vault: Vault, tmp_path: Path) -> None:
    """Looking makes none."""
    assert vault.names() == []
    assert list(tmp_path.iterdir()) == []


def test_names_are_listed_in_order(vault: Vault) -> None:
    """Names alone."""
    for name in ("b", "alice/TOKEN", "A"):
        vault.put(name, "value")
    assert vault.names() == ["A", "alice/TOKEN", "b"]


def test_another_install_key_is_one_clear_error(vault: Vault, tmp_path: Path) -> None:
    """Neither read nor mixed with values of another key."""
    vault.put("TOKEN", "value")
    other = Vault(tmp_path, bytes(32))
    for use in (lambda: other.get("TOKEN"), other.names, lambda: other.put("NEW", "x"), lambda: other.delete("TOKEN")):
        with pytest.raises(SecretUnavailable, match=r"another install\.key"):
            use()
    assert vault.get("TOKEN") == "value"


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"version": 1}', "cut"])
def test_a_damaged_file_is_one_clear_error_and_is_left_alone(vault: Vault, tmp_path: Path, damage: str) -> None:
    """What could still be saved by hand is not overwritten."""
    vault.put("TOKEN", "value")
    path = tmp_path / FILE
    path.write_text(path.read_text()[:-20] if damage == "cut" else damage)
    left = path.read_bytes()
    with pytest.raises(SecretUnavailable, match="damaged"):
        vault.get("TOKEN")
    with pytest.raises(SecretUnavailable, match="damaged"):
        vault.put("NEW", "x")
    assert path.read_bytes() == left


def test_a_changed_or_exchanged_value_is_refused(vault: Vault, tmp_path: Path) -> None:
    """Each value is bound to its name, and cannot be changed without the key."""
    vault.put("A", "of a")
    vault.put("B", "of b")
    path = tmp_path / FILE
    data = json.loads(path.read_text())
    for wrong in (data["values"]["B"], "AAAA", "no base64!"):
        path.write_text(json.dumps({**data, "values": {**data["values"], "A": wrong}}))
        with pytest.raises(SecretUnavailable, match="damaged"):
            vault.get("A")
        assert vault.get("B") == "of b"


def test_a_file_of_a_newer_version_is_not_touched(vault: Vault, tmp_path: Path) -> None:
    """It is said so, instead of guessing."""
    (tmp_path / FILE).write_text(json.dumps({"version": 2, "key": "x", "values": {}}))
    with pytest.raises(SecretUnavailable, match="newer version"):
        vault.put("A", "x")


def test_a_draft_left_by_a_crash_is_in_nobodys_way(vault: Vault, tmp_path: Path) -> None:
    """A writer that was killed before the replacement changed nothing."""
    vault.put("A", "kept")
    (tmp_path / "secrets.new").write_text("half a fi")
    vault.put("B", "new")
    assert (vault.get("A"), vault.get("B")) == ("kept", "new")


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    """Threads and processes write at the same time; every value is there afterwards."""
    program = "\n".join(
        [
            "import sys; from pathlib import Path; from cnap_runner.secrets.vault import Vault",
            "vault = Vault(Path(sys.argv[1]), bytes(range(32)))",
            "for n in range(10): vault.put(f'{sys.argv[2]}{n}', 'value')",
        ]
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in ("p", "q")]
    vault = Vault(tmp_path, KEY)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: vault.put(f"t{n}", "value"), range(20)))
    assert [process.wait() for process in others] == [0, 0]
    assert len(Vault(tmp_path, KEY).names()) == 40


def test_a_lock_that_is_never_given_back_is_one_clear_error(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process keeps nobody waiting for ever; reading needs no lock."""
    vault.put("A", "x")
    monkeypatch.setattr("cnap_runner.secrets.vault._LOCK_LIMIT", timedelta())
    with (tmp_path / "secrets.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SecretUnavailable, match="for too long"):
            vault.put("B", "y")
        assert vault.get("A") == "x"
    vault.put("B", "y")
