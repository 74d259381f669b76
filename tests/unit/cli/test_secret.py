"""``cnap-runner secret``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnap_runner import AgentSpec, sync
from cnap_runner.errors import SecretWarning
from cnap_runner.secrets.vault import Vault
from cnap_runner.settings import Settings

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House

VALUE = "the-value-itself-1"


def kept(data_dir: Path, name: str) -> str:
    return Vault(data_dir, (data_dir / "install.key").read_bytes()).get(name)


def declare(cli: House, **fields: object) -> None:
    """Make an agent by the library."""
    with sync.RunnerManager(Settings(data_dir=cli.data_dir)) as manager:
        manager.create_runner(AgentSpec.model_validate({"agent_id": "alice", "model": "fake/demo", **fields}))


@pytest.mark.parametrize("given", [VALUE, f"{VALUE}\n", f"{VALUE}\r\n"])
def test_a_value_from_standard_input_is_kept(cli: House, given: str) -> None:
    """Without the line end that an editor or echo adds; nothing of it is said."""
    done = cli("secret", "set", "TOKEN", given=given)
    assert done.exit_code == 0
    assert kept(cli.data_dir, "TOKEN") == VALUE
    assert VALUE not in done.output
    assert "vault:TOKEN" in done.stderr


def test_a_value_is_no_argument(cli: House) -> None:
    """Others could read it in the list of processes."""
    assert cli("secret", "set", "TOKEN", VALUE).exit_code == 2
    assert not (cli.data_dir / "secrets.vault").exists()


@pytest.mark.parametrize(
    ("name", "given"), [("TOKEN", ""), ("TOKEN", b"\xff\xfe"), ("a b", VALUE), ("TOKEN", "x" * 70000)]
)
def test_what_cannot_be_a_secret_is_refused(cli: House, name: str, given: str | bytes) -> None:
    """With one clear error, and nothing is kept."""
    done = cli("secret", "set", name, given=given)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert not (cli.data_dir / "secrets.vault").exists()


def test_a_terminal_is_asked_twice_and_shows_nothing(tmp_path: Path) -> None:
    """The prompt is hidden: what is typed is not echoed."""
    controller, terminal = pty.openpty()
    argv = [sys.executable, "-m", "cnap_runner", "--data-dir", str(tmp_path / "data"), "--backend", "process"]
    with subprocess.Popen(
        [*argv, "secret", "set", "TOKEN"], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as process:
        os.close(terminal)
        seen = ""
        for _ in range(2):
            while seen.count(": ") < 1:
                seen += os.read(controller, 1000).decode()
            assert VALUE not in seen
            seen = ""
            os.write(controller, f"{VALUE}\n".encode())
        while chunk := _read(controller):
            seen += chunk
    os.close(controller)
    assert process.returncode == 0, seen
    assert VALUE not in seen
    assert kept(tmp_path / "data", "TOKEN") == VALUE


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 1000).decode()
    except OSError:  # the other end is closed
        return ""


def test_names_are_listed_with_the_agents_that_use_them(cli: House) -> None:
    """Never a value; what is missing is said."""
    cli("secret", "set", "TOKEN", given=VALUE)
    cli("secret", "set", "SPARE", given=VALUE)
    declare(cli, secrets={"A": "vault:TOKEN", "B": "env:HOME", "C": "vault:GONE"})
    assert json.loads(cli("secret", "ls", "--json").stdout) == [
        {"reference": "env:HOME", "is_kept": None, "agents": ["alice"]},
        {"reference": "vault:GONE", "is_kept": False, "agents": ["alice"]},
        {"reference": "vault:SPARE", "is_kept": True, "agents": []},
        {"reference": "vault:TOKEN", "is_kept": True, "agents": ["alice"]},
    ]
    shown = cli("secret", "ls")
    assert VALUE not in shown.output
    assert any("vault:GONE" in line and "missing" in line for line in shown.stdout.splitlines())


def test_looking_makes_no_install(cli: House) -> None:
    """An empty list of a folder that is not there."""
    assert cli("secret", "ls", "--json").stdout.strip() == "[]"
    assert not cli.data_dir.exists()


def test_a_secret_in_use_is_not_removed_by_accident(cli: House) -> None:
    """It names the agents; --force does it all the same; a second time there is none."""
    cli("secret", "set", "TOKEN", given=VALUE)
    declare(cli, secrets={"A": "vault:TOKEN"})
    refused = cli("secret", "rm", "TOKEN")
    assert refused.exit_code == 5
    assert "alice" in refused.stderr
    assert kept(cli.data_dir, "TOKEN") == VALUE
    assert cli("secret", "rm", "TOKEN", "--force").exit_code == 0
    assert cli("secret", "rm", "TOKEN", "--force").exit_code == 4


def test_who_has_the_old_value_is_told_how_to_get_the_new_one(cli: House) -> None:
    """A new value reaches a running agent at its next start, or by rotation."""
    declare(cli, secrets={"A": "vault:TOKEN"})
    assert "secret rotate" in cli("secret", "set", "TOKEN", given=VALUE).stderr


def test_rotation_needs_an_agent_and_starts_none(cli: House) -> None:
    """An agent that does not run gets the present values at its next start anyway."""
    declare(cli, secrets={"A": "vault:GONE"})
    assert cli("secret", "rotate", "alice").exit_code == 0
    assert not cli.backend._instances
    assert cli("secret", "rotate", "bob").exit_code == 4


def test_a_declared_literal_is_taken_with_one_line_of_warning(cli: House, tmp_path: Path) -> None:
    """It is in no answer and in no file of the install."""
    file = tmp_path / "agents.yaml"
    file.write_text(f"agent_id: alice\nmodel: fake/demo\nsecrets: {{TOKEN: 'literal:{VALUE}'}}\n")
    done = cli("apply", "-f", str(file))
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "cnap-runner secret set TOKEN" in line
    shown = done.output + cli("agent", "show", "alice", "--json").output
    assert VALUE not in shown
    assert "vault:alice/TOKEN." in shown
    held = [path.name for path in cli.data_dir.rglob("*") if path.is_file() and VALUE.encode() in path.read_bytes()]
    assert held == []


def test_another_install_key_is_one_clear_error(cli: House) -> None:
    """No traceback, and what to do."""
    cli("secret", "set", "TOKEN", given=VALUE)
    (cli.data_dir / "install.key").write_bytes(bytes(32))
    done = cli("secret", "ls")
    assert done.exit_code == 2
    assert "another install.key" in done.stderr
    assert "hint: " in done.stderr


def test_a_purge_takes_the_vault_along(cli: House) -> None:
    """Nothing of an install is left."""
    cli("secret", "set", "TOKEN", given=VALUE)
    assert cli("purge", "--yes").exit_code == 0
    assert not cli.data_dir.exists()


def test_the_command_line_says_the_warning_about_a_literal(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one line, although Python was told to make warnings errors."""
    import warnings

    from cnap_runner.cli import doctor

    def warn(*_: object) -> None:
        warnings.warn("the better way is …", SecretWarning, stacklevel=1)

    monkeypatch.setattr(doctor, "run_async", warn)
    done = cli("doctor")
    assert "warning: the better way is …" in done.stderr.splitlines()
