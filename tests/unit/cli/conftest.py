"""The command line in this process, over a backend in memory and fake OpenCode servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cnap_runner import wiring
from cnap_runner.cli import keeping
from cnap_runner.cli.app import app
from cnap_runner.model.instance import InstanceRef, InstanceSpec
from cnap_runner.runner.install import Install
from cnap_runner.settings import Settings
from cnap_runner.testing import FakeBackend
from cnap_runner.testing.fake_opencode import FakeOpenCode
from cnap_runner.testing.fake_opencode.script import Step


class ServingBackend(FakeBackend):
    """Each instance is a fake OpenCode server of the event loop that started it, and ends with its instance."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(serve=self._serve_fake)
        self._data_dir = data_dir
        self._servers: dict[str, FakeOpenCode] = {}
        self.turns: list[Sequence[Step]] = []
        """What the next server plays."""
        self.bodies: list[dict[str, object]] = []
        """Every prompt that arrived, whole; known once its instance was stopped."""

    async def stop(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End the server with its instance."""
        if (server := self._servers.pop(ref.instance_id, None)) is not None:
            self.bodies += server.bodies
            await server.kill()
        await super().stop(ref, grace=grace)

    async def _serve_fake(self, spec: InstanceSpec) -> str:
        key = (self._data_dir / "install.key").read_bytes()
        server = FakeOpenCode(Install.password_of(type("Key", (), {"key": key})(), spec.instance_id))
        server.script(*self.turns)
        await server.start()
        self._servers[spec.instance_id] = server
        return server.base_url


class House:
    """One data folder, one backend, and the command line on them."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.backend = ServingBackend(data_dir)
        self.keepers: list[Settings] = []
        """What keepers were started with, in play."""

    def __call__(self, *arguments: str, given: str | bytes | None = None) -> Result:
        """Run one command. Standard input and output are no terminals."""
        return CliRunner().invoke(
            app, ["--data-dir", str(self.data_dir), *arguments], input=given, prog_name="cnap-runner"
        )


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(tmp_path / "data")
    monkeypatch.setattr(wiring, "make_backend", lambda _: house.backend)
    monkeypatch.chdir(tmp_path)
    # An instance of this backend lives no longer than the command's event loop: none can be left warm.
    monkeypatch.setenv("CNAP_RUNNER_ON_SHUTDOWN", "stop")
    monkeypatch.setenv("CNAP_RUNNER_RETRY_BACKOFF", "0.01")
    monkeypatch.setattr(keeping, "spawn", house.keepers.append)
    return house


@pytest.fixture
def use_backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeBackend], None]:
    """Put another backend in the place of the house's own."""
    return lambda backend: monkeypatch.setattr(wiring, "make_backend", lambda _: backend)
