"""``export`` and ``import``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from cnap_runner import RunnerManager

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House

TEAM = "agent_id: alice\nmodel: fake/demo\nsecrets: {KEY: 'env:SURELY_NOT_SET'}\n"


@pytest.fixture
def exported(cli: House, tmp_path: Path) -> Path:
    assert cli("apply", "-f", "-", given=TEAM).exit_code == 0
    (cli.data_dir / "workspace" / "alice" / "notes.md").write_text("mine")
    result = cli("export", "alice")
    assert result.exit_code == 0, result.output
    assert "agent alice is exported to alice.tar.gz" in result.stderr
    return tmp_path / "alice.tar.gz"


def test_an_agent_comes_back_under_another_id(cli: House, exported: Path) -> None:
    """Its files are there, and what it needs is named."""
    result = cli("import", str(exported), "--as", "bob")
    assert result.exit_code == 0, result.output
    assert (cli.data_dir / "workspace" / "bob" / "notes.md").read_text() == "mine"
    assert "warning: Secret KEY (env:SURELY_NOT_SET) has no value here; set it before the first run." in result.stderr
    assert "agent bob is imported" in result.stderr


def test_an_agent_that_is_there_is_not_replaced(cli: House, exported: Path) -> None:
    """Exit code 5, and what to do."""
    result = cli("import", str(exported))
    assert (result.exit_code, "hint: Import it under another id (`--as`)." in result.stderr) == (5, True)


def test_a_file_that_is_there_is_not_replaced_without_force(cli: House, exported: Path) -> None:
    """An older archive is not lost by a repeated command."""
    assert cli("export", "alice").exit_code == 5
    assert cli("export", "alice", "--force").exit_code == 0
    assert cli("export", "alice", "-o", "other.tar.gz").exit_code == 0


def test_what_is_no_archive_makes_no_install(cli: House, tmp_path: Path) -> None:
    """A wrong file is refused in one line."""
    assert cli("import", "none.tar.gz").exit_code == 2
    assert not (cli.data_dir / "runner.db").exists()
    (tmp_path / "text").write_text("text")
    result = cli("import", "text")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: text is damaged or no archive of an agent.")


@pytest.mark.parametrize(("command", "said"), [("export", "nothing was exported"), ("import", "nothing was imported")])
def test_an_interrupted_transfer_says_so(
    cli: House, exported: Path, command: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: exit code 130, and what became of it."""

    async def waiting(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()

    monkeypatch.setattr(RunnerManager, f"{command}_agent", waiting)
    result = cli(command, *(["alice", "--force"] if command == "export" else [str(exported), "--as", "bob"]))
    assert result.exit_code == 130
    assert f"interrupted; {said}" in result.stderr


def test_an_unknown_agent_cannot_be_exported(cli: House, exported: Path) -> None:
    """Nothing is written for it."""
    assert cli("export", "carol").exit_code == 4
    assert not Path("carol.tar.gz").exists()


def test_a_size_that_is_not_allowed_is_refused(cli: House, exported: Path) -> None:
    """--max-size bounds what is unpacked."""
    (cli.data_dir / "workspace" / "alice" / "large").write_bytes(bytes(3 << 20))
    cli("export", "alice", "--force")
    result = cli("import", str(exported), "--as", "bob", "--max-size", "1")
    assert result.exit_code == 3
    assert "is allowed" in result.stderr
    assert not (cli.data_dir / "workspace" / "bob").exists()
