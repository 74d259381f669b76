"""Whole systems: the installed command line, a real engine, the real OpenCode. Only the model is scripted."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from cnap_runner.image.build import build_image
from cnap_runner.model.instance import LABEL_INSTALL
from cnap_runner.store.presence import is_alive
from cnap_runner.testing.scripted_model import provider_config
from cnap_runner.testing.scripted_model.log import read_log
from cnap_runner.wiring import load_template

PATIENCE = 120
"""Seconds after which a command counts as stuck. Nothing is asserted about its speed."""


@dataclass(frozen=True)
class ModelServer:
    """A scripted model in a process of its own, which containers reach."""

    port: int
    log: Path

    @property
    def prompts(self) -> list[str]:
        """The prompts that came, the oldest first."""
        return [request.prompt for request in read_log(self.log) if request.is_prompt]

    def configure(self, data_dir: Path) -> None:
        """Make it a provider of every agent of an install, by the install's own template of settings."""
        template = load_template(data_dir) | provider_config(f"http://host.docker.internal:{self.port}/v1")
        folder = data_dir / "configs" / "opencode"
        folder.mkdir(parents=True)
        (folder / "default-config.json").write_text(json.dumps(template))


class Cli:
    """The installed ``cnap-runner``, as processes on one data folder."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.data_dir = data_dir
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CNAP_RUNNER_")}
        ours = {"CNAP_RUNNER_DATA_DIR": str(data_dir), "CNAP_RUNNER_FETCH_MODELS": "false", **variables}
        self.environment = inherited | ours

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        program = str(Path(sys.executable).with_name("cnap-runner"))
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [program, *arguments],
            env=self.environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            preexec_fn=_hear_signals,  # noqa: PLW1509 - it only resets two signals
        )

    def run(self, *arguments: str, code: int = 0, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which is asserted."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(given, timeout=PATIENCE)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == code, f"{arguments} ended with {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def keeper(self) -> tuple[str, int] | None:
        """The manager id and the process id of the keeper that a command left behind, if it is up."""
        try:
            manager_id, pid = (self.data_dir / "managers" / "keeper.pid").read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return (manager_id, int(pid)) if is_alive(self.data_dir, manager_id) else None

    def end_keeper(self) -> None:
        """End it, if there is one."""
        if (keeper := self.keeper) is not None:
            os.kill(keeper[1], signal.SIGTERM)
            wait_until(lambda: self.keeper is None, what="the keeper ended")

    def workspace(self, agent_id: str) -> Path:
        """An agent's workspace."""
        return self.data_dir / "workspace" / agent_id

    @property
    def install_id(self) -> str:
        """The install's id."""
        with closing(sqlite3.connect(self.data_dir / "runner.db")) as connection:
            (found,) = connection.execute("SELECT install_id FROM install").fetchone()
        return str(found)

    def remains(self) -> list[str]:
        """Containers and networks of this install that are on the engine."""
        return [str(thing.name) for thing in _of_install(self.install_id)]


def _hear_signals() -> None:
    """Like a command typed at a terminal: one begun by a job in the background, or by nohup, would ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    """Wait until something another process does has happened."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def runner_image() -> str:
    """The image of the agents, built if the engine does not have it as it should be."""
    return anyio.run(partial(build_image, "cnap-runner:latest")).tag


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A scripted model that plays what its prompts say."""
    folder = tmp_path_factory.mktemp("model")
    port_file, log = folder / "port", folder / "requests.jsonl"
    argv = ["-m", "cnap_runner.testing.scripted_model", "--host", "0.0.0.0", "--log", str(log)]
    with subprocess.Popen([sys.executable, *argv, "--port-file", str(port_file)], stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(port_file.exists, what="the model listens")
            yield ModelServer(int(port_file.read_text()), log)
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def make_cli(
    tmp_path_factory: pytest.TempPathFactory, model_server: ModelServer, runner_image: str
) -> Iterator[Callable[..., Cli]]:
    """Make installs; whatever a test leaves of them on the engine is removed by their label."""
    made: list[Cli] = []

    def make(**variables: str) -> Cli:
        data_dir = tmp_path_factory.mktemp("install")
        model_server.configure(data_dir)
        made.append(Cli(data_dir, **variables))
        return made[-1]

    yield make
    for cli in made:
        cli.end_keeper()
        if (cli.data_dir / "runner.db").exists():
            remove_from_engine(cli.install_id)


@pytest.fixture(scope="session")
def warm(make_cli: Callable[..., Cli]) -> Cli:
    """An install whose agent ``alice`` is warm, and stays so: tests that only talk to an agent share one start."""
    cli = make_cli(CNAP_RUNNER_ON_SHUTDOWN="leave")
    cli.run("run", "alice", "say: ready", "--model", "scripted/demo")
    return cli


def remove_from_engine(install_id: str) -> None:
    """Remove all that the engine has of an install."""
    for thing in _of_install(install_id):
        if hasattr(thing, "kill"):
            thing.remove(force=True)
        else:
            thing.remove()


def _of_install(install_id: str) -> list[Any]:
    """Containers first: a network in use cannot be removed."""
    client = docker.from_env()
    try:
        filters: dict[str, Any] = {"label": f"{LABEL_INSTALL}={install_id}"}
        return [*client.containers.list(all=True, filters=filters), *client.networks.list(filters=filters)]
    finally:
        client.close()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait until something another process does has happened."""
    return wait_until
