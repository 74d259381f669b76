"""Agents that are left warm, and who sees to them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from cnap_runner.cli import checks, install, keeping
from cnap_runner.cli.keeper_state import write_state
from cnap_runner.cli.keeping import PID
from cnap_runner.settings import Settings
from cnap_runner.wiring import RunnerManager

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House

NEW = ("run", "alice", "hi", "--model", "fake/demo")


def status(cli: House) -> str:
    """How the agent stands."""
    return str(json.loads(cli("ps", "--json").stdout)[0]["status"])


def test_a_run_leaves_its_agent_warm_and_a_keeper_behind(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default; what is set counts, `--stop` most of all; where nothing is left, nobody is needed."""
    cli(*NEW)
    assert (status(cli), cli.keepers) == ("stopped", [])
    monkeypatch.delenv("CNAP_RUNNER_ON_SHUTDOWN")
    cli(*NEW, "--stop")
    assert (status(cli), cli.keepers) == ("stopped", [])
    cli("ps")
    cli(*NEW, "--keep")
    assert (status(cli), len(cli.keepers)) == ("ready", 1)
    cli("stop", "alice")
    cli.keepers.clear()
    cli(*NEW)
    assert (status(cli), len(cli.keepers)) == ("ready", 1)
    cli("stop", "alice")


def test_a_keeper_ends_when_there_is_nothing_to_keep(cli: House) -> None:
    """At once, then; its number is not left behind, and where there is no install it makes none."""
    assert cli("keeper").exit_code == 4
    assert not cli.data_dir.exists()
    cli(*NEW)
    assert cli("keeper").exit_code == 0
    assert not (cli.data_dir / PID).exists()


def test_agents_are_held_and_released(cli: House) -> None:
    """`ps` tells until when; the owner is whoever types, unless another one is named; what makes no sense is refused."""
    cli(*NEW)
    held = cli("hold", "alice", "--for", "2h", "--owner", "bob").stderr
    assert "is held by bob until" in held
    assert "it is stopped, and a hold starts nothing: `cnap-runner start alice`" in held
    other = cli("release", "alice", "--owner", "carol").stderr
    assert "carol did not hold agent alice" in other
    assert "it is held by bob until" in other
    assert "--owner bob" in other
    (line,) = json.loads(cli("ps", "--json").stdout)
    assert datetime.fromisoformat(line["held_until"]) > datetime.now(UTC) + timedelta(minutes=119)
    assert (line["held_by"], line["instance"]) == (["bob"], None)
    assert "HELD UNTIL" in cli("ps").stdout
    assert "is released" in cli("release", "alice", "--owner", "bob").stderr
    assert "nobody holds" in cli("release", "alice", "--owner", "bob").stderr
    assert cli("hold", "alice").exit_code == 2
    assert "one of the two" in cli("hold", "alice", "--for", "1h", "--until", "2099-01-01").stderr
    assert "--until 20" in cli("hold", "alice", "--for", "31d").stderr
    assert cli("hold", "alice", "--for", "soon").exit_code == 2
    assert cli("hold", "alice", "--until", "2001-01-01").exit_code == 2
    assert cli("hold", "nobody", "--for", "1h").exit_code == 4


def test_figures_are_counted(cli: House) -> None:
    """For people and for programs."""
    cli(*NEW)
    counted = json.loads(cli("stats", "--json").stdout)
    assert (counted["total"], counted["stopped"], counted["tasks_succeeded"]) == (1, 1, 1)
    assert "ended by idle" in cli("stats").stdout


@pytest.mark.parametrize(
    ("command", "kept"), [("pause alice", 1), ("hold alice --for 1h", 1), ("stop alice", 1), ("ps", 0)]
)
def test_a_command_that_finds_live_agents_at_its_end_sees_to_a_keeper(
    cli: House, monkeypatch: pytest.MonkeyPatch, command: str, kept: int
) -> None:
    """Whatever it did; one that only looks starts none, and neither does one that shall leave none behind."""
    cli(*NEW)
    monkeypatch.delenv("CNAP_RUNNER_ON_SHUTDOWN")
    leave_somebody_warm(monkeypatch)
    cli(*command.split())
    assert len(cli.keepers) == kept
    monkeypatch.setenv("CNAP_RUNNER_ON_SHUTDOWN", "stop")
    cli(*command.split())
    assert len(cli.keepers) == kept


def test_that_metrics_are_not_served_is_said(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the commands that do something: where no keeper lives, and where one was started without the port."""
    cli(*NEW)
    monkeypatch.setenv("CNAP_RUNNER_METRICS_PORT", "9464")
    assert "warning: metrics are not served at port 9464" in cli("stop", "alice").stderr
    assert "warning" not in cli("ps").stderr
    with living(cli, Settings(data_dir=cli.data_dir, metrics_port=None)):
        assert "keeper --restart" in cli("stop", "alice").stderr
    with living(cli, Settings(data_dir=cli.data_dir, metrics_port=9464)):
        assert "warning" not in cli("stop", "alice").stderr


def test_doctor_shows_the_keeper_and_what_it_works_by(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is not what counts here, it says how to replace it."""
    cli(*NEW)
    monkeypatch.setattr(checks, "CHECKS", (checks.check_keeper,))
    assert json.loads(cli("doctor", "--json").stdout) == []
    with living(cli, Settings(data_dir=cli.data_dir)):
        assert f"process {os.getpid()} since" in cli("doctor").stdout
        assert "idle_timeout 300 s" in cli("doctor").stdout
        monkeypatch.setenv("CNAP_RUNNER_IDLE_TIMEOUT", "1h")
        assert "Here: idle_timeout 3600 s. `cnap-runner keeper --restart`" in cli("doctor").stdout


def test_a_keeper_is_replaced(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one with the settings of the call where something is to be kept; a second one says why it ends."""
    cli(*NEW)
    assert "none is needed" in cli("keeper", "--restart").stderr
    leave_somebody_warm(monkeypatch)
    monkeypatch.setenv("CNAP_RUNNER_IDLE_TIMEOUT", "1h")
    assert "a new keeper is started" in cli("keeper", "--restart").stderr
    assert [settings.idle_timeout for settings in cli.keepers] == [timedelta(hours=1)]
    assert "no keeper lives" in cli("keeper", "--stop").stderr
    assert cli("keeper", "--stop", "--restart").exit_code == 2


def leave_somebody_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an agent be live that nobody sees to: no instance of the backend in memory outlives the command that started it."""

    async def needs_keeper(_: RunnerManager) -> bool:
        return True

    monkeypatch.setattr(RunnerManager, "needs_keeper", needs_keeper)


@contextmanager
def living(cli: House, settings: Settings) -> Iterator[None]:
    """Let a keeper with these settings live meanwhile, in this process."""
    write_state(settings, "m-keeper")
    with (cli.data_dir / "managers" / "m-keeper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_number_that_is_a_strangers_here_is_not_ended(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the keeper lives in another container, or is another user's, one is told so: to purge is not to kill whoever has its number."""
    cli(*NEW)
    pids = cli.data_dir / PID
    with living(cli, Settings(data_dir=cli.data_dir)):
        pids.write_text(f"m-keeper {os.getpid()}\n")
        assert "process " + str(os.getpid()) + " of this machine is not it" in cli("keeper", "--stop").stderr
        monkeypatch.setattr(keeping, "_is_keeper", lambda _: True)
        monkeypatch.setattr(os, "kill", refuse)
        assert "is another user's" in cli("keeper", "--stop").stderr


def refuse(*_: object) -> None:
    raise PermissionError


def test_a_keeper_takes_back_only_what_it_said_itself(cli: House) -> None:
    """Another one may have come meanwhile."""
    cli(*NEW)
    path = cli.data_dir / PID
    path.write_text("m-other 1\n")
    keeping._unlink_of(path, "m-keeper")
    assert path.exists()
    keeping._unlink_of(path, "m-other")
    keeping._unlink_of(path, "m-other")
    assert not path.exists()


def test_that_nobody_could_be_found_to_keep_is_said(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it takes too long to find out, too."""

    async def slow(*_: object) -> None:
        await anyio.sleep(5)

    monkeypatch.delenv("CNAP_RUNNER_ON_SHUTDOWN")
    monkeypatch.setattr(install, "LEAVING", timedelta(seconds=0.05))
    monkeypatch.setattr(keeping, "ensure_keeper", slow)
    assert "that took longer than 0.05 s" in cli(*NEW).stderr
    cli("stop", "alice")


def test_only_a_frozen_or_ready_agent_can_be_paused(cli: House) -> None:
    """A stopped one is told so."""
    cli(*NEW)
    assert "nothing to freeze" in cli("pause", "alice").stderr
    assert cli("pause").exit_code == 2


def test_a_keeper_has_a_session_and_streams_of_its_own(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal or a pipe that closes does not matter to it; what goes wrong in it is in its log."""
    monkeypatch.undo()
    cli.data_dir.mkdir()
    started: list[dict[str, object]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda argv, **options: started.append({"argv": argv, **options}))
    from cnap_runner import Settings

    keeping.spawn(Settings(data_dir=cli.data_dir))
    (only,) = started
    assert (only["stdin"], only["start_new_session"]) == (subprocess.DEVNULL, True)
    assert only["stdout"] == only["stderr"] != subprocess.DEVNULL
    assert (cli.data_dir / keeping.LOG).stat().st_mode & 0o777 == 0o600


def test_purge_ends_the_keeper(cli: House) -> None:
    """A real one, in a process of its own; a number that was left behind by a dead one harms nobody."""
    cli(*NEW)
    (cli.data_dir / PID).write_text("m-dead 1\n")
    with closing(sqlite3.connect(cli.data_dir / "runner.db")) as raw, raw:
        raw.execute("UPDATE agents SET status = 'ready'")
    environment = {**os.environ, "CNAP_RUNNER_BACKEND": "docker", "DOCKER_HOST": "tcp://127.0.0.1:9"}
    argv = [sys.executable, "-m", "cnap_runner", "--data-dir", str(cli.data_dir), "keeper"]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: "m-dead" not in (cli.data_dir / PID).read_text())
            assert cli("purge", "--yes").exit_code == 0
            assert process.wait(10) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert not cli.data_dir.exists()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
