"""Bad input: one clear error, nothing made."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
import typer

from cnap_runner.cli.asking import confirm

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House


def test_help_names_every_command_and_exit_code(cli: House) -> None:
    """`--help` is enough to begin with."""
    text = cli("--help").output
    for command in (
        "run",
        "abort",
        "runs",
        "ps",
        "logs",
        "shell",
        "start",
        "stop",
        "rm",
        "demo",
        "doctor",
        "image",
        "purge",
        "apply",
        "agent",
        "mcp",
        "export",
        "import",
    ):
        assert f"│ {command} " in text
    assert "130 ended by Ctrl-C" in " ".join(text.split())


@pytest.mark.parametrize("command", ["", "run", "rm", "runs", "shell", "image", "image push"])
def test_help_names_no_types_of_flags_and_plain_arguments(cli: House, command: str) -> None:
    """What is shown is what one types."""
    text = cli(*command.split(), "--help").output
    assert [word for word in ("<bool>", "{", "[[") if word in text] == []
    if command in {"run", "rm"}:
        assert {"run": "[OPTIONS] AGENT PROMPT", "rm": "[OPTIONS] [AGENT]..."}[command] in text


def test_help_loads_no_library_that_only_commands_need() -> None:
    """Help and completion answer at once."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cnap_runner.cli.app import app\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0\n"
        "heavy = {'sqlalchemy', 'docker', 'httpx', 'structlog', 'anyio', 'uvicorn', 'starlette'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "alice"), 2, "PROMPT"),
        (("run", "alice", "hi", "--nonsense"), 2, "--nonsense"),
        (("run", "alice", "-x this", "--model", "a/b"), 2, "Put `--` before"),
        (("nonsense",), 2, "nonsense"),
        (("--backend", "lxc", "ps"), 2, "lxc"),
        (("run", "../up", "hi", "--model", "a/b"), 2, "is not an id"),
        (("run", "alice", "hi", "--model", "nomodel"), 2, "is not a model"),
        (("run", "alice", "hi", "--model", "a/b", "--timeout", "soon"), 2, "not a duration"),
        (("run", "alice", " ", "--model", "a/b"), 2, "needs text"),
        (("run", "alice", "hi", "--model", "a/b", "--file", "missing.txt"), 2, "missing.txt"),
        (("run", "alice", "hi"), 4, "needs a model"),
        (("logs", "alice"), 4, "There are no agents in"),
        (("stop",), 2, "Name the agents"),
        (("stop", "alice", "--all"), 2, "Name the agents"),
        (("rm",), 2, "at least one agent"),
        (("shell", "alice"), 2, "needs a terminal"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(cli: House, arguments: tuple[str, ...], code: int, says: str) -> None:
    """The exit code tells the kind, the message what to do; there is no traceback."""
    done = cli(*arguments)
    assert done.exit_code == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_looking_makes_no_install(cli: House) -> None:
    """A look at a wrong folder leaves it as it was."""
    assert cli("ps").exit_code == 0
    assert cli("ps", "--json").stdout == "[]\n"
    assert cli("runs").exit_code == 0
    assert cli("purge", "--yes").exit_code == 0
    assert not cli.data_dir.exists()


def test_a_prompt_that_is_no_text_is_refused(cli: House) -> None:
    """Standard input has to be UTF-8."""
    done = cli("run", "alice", "-", "--model", "a/b", given=b"\xff\xfe")
    assert (done.exit_code, "not UTF-8" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "command", [("run", "alice", "-", "--model", "a/b"), ("rm", "alice", "--workspace"), ("shell", "alice")]
)
def test_a_closed_standard_input_is_no_defect(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Who closed it is told what it was needed for; Python has no object for it then."""
    line = shlex.join([sys.executable, "-m", "cnap_runner", "--data-dir", str(tmp_path / "data"), *command])
    done = subprocess.run(["/bin/sh", "-c", f"{line} <&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, "defect" in done.stderr) == (2, False), done.stderr


def test_a_file_of_settings_that_is_no_toml_is_named(cli: House, tmp_path: Path) -> None:
    """It is the user's to correct, no defect."""
    (tmp_path / "cnap-runner.toml").write_text("memory_mb = [")
    done = cli("ps")
    assert (done.exit_code, "cnap-runner.toml is not TOML" in done.stderr, "defect" in done.stderr) == (2, True, False)


def test_a_wrong_setting_is_one_line(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named."""
    monkeypatch.setenv("CNAP_RUNNER_MEMORY_MB", "lots")
    done = cli("ps")
    assert (done.exit_code, "memory_mb" in done.stderr.lower()) == (2, True)


def test_a_defect_shows_its_traceback_only_to_who_asks(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unexpected errors are one line as well; `--log-level debug` shows where."""
    from cnap_runner.cli import install

    def broken(_: object) -> bool:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(install, "is_there", broken)
    plain, debugging = cli("ps"), cli("--log-level", "debug", "ps")
    assert (plain.exit_code, debugging.exit_code) == (1, 1)
    assert "ZeroDivisionError: by design" in plain.stderr
    assert ("Traceback" in plain.stderr, "Traceback" in debugging.stderr) == (False, True)


@pytest.mark.parametrize("command", [("ps",), ("runs",), ("run", "alice", "hi", "--model", "a/b"), ("purge", "--yes")])
def test_a_data_folder_that_is_a_file_is_refused(cli: House, command: tuple[str, ...]) -> None:
    """A mistyped path does not look like an install without agents."""
    cli.data_dir.write_text("a file")
    done = cli(*command)
    assert (done.exit_code, "is not a folder" in done.stderr) == (2, True), done.stderr


def test_ctrl_c_at_a_question_is_told_from_the_end_of_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """130 is Ctrl-C everywhere; the end of input is a no."""
    monkeypatch.setattr("cnap_runner.cli.asking.is_interactive", lambda: True)
    for reason, ending in ((KeyboardInterrupt, typer.Exit), (EOFError, typer.Abort)):
        leave = Mock(side_effect=reason)
        monkeypatch.setattr(sys.modules[typer.confirm.__module__], "visible_prompt_func", leave)
        with pytest.raises(ending) as raised:
            confirm("Really?", is_sure=False)
        assert getattr(raised.value, "exit_code", 1) == (130 if reason is KeyboardInterrupt else 1)


def test_what_is_not_there_is_said_by_its_name(cli: House) -> None:
    """With the code of what is not there, as everywhere; two answers to one question are refused."""
    cli("run", "alice", "hi", "--model", "fake/demo")
    for command in ("runs nobody", "answers reply nobody allow", "abort alice --task nope"):
        done = cli(*command.split())
        assert (done.exit_code, command, done.stdout) == (4, command, "")
    assert "asks nothing" in cli("answers", "reply", "alice", "allow").stderr
    assert "nothing was under way" in cli("abort", "alice").stderr
    assert "one of the two" in cli("stop", "alice", "--all").stderr
