"""What ``doctor`` finds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnap_runner import wiring
from cnap_runner.cli import checks
from cnap_runner.cli.checks import State
from cnap_runner.errors import EngineUnavailable
from cnap_runner.model.engine import Capabilities
from cnap_runner.settings import Settings
from cnap_runner.testing import FakeBackend, FlakyBackend

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House


@pytest.fixture
def settings(cli: House) -> Settings:
    return Settings(data_dir=cli.data_dir)


def test_doctor_changes_nothing_and_exits_by_the_worst_finding(
    cli: House, use_backend: Callable[[FakeBackend], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine it fails and says how to mend that; no folder is made."""
    monkeypatch.setattr(checks, "CHECKS", (checks.check_engine, checks.check_data_folder, checks.check_database))
    assert cli("doctor").exit_code == 0
    use_backend(FlakyBackend(failures=10))
    done = cli("doctor", "--json")
    assert done.exit_code == 1
    engine = json.loads(done.stdout)[0]
    assert (engine["check"], engine["state"]) == ("engine", "fail")
    assert "DOCKER_HOST" in engine["hint"]
    assert not cli.data_dir.exists()


async def test_a_key_that_others_can_read_and_a_vault_it_does_not_open_are_found(
    cli: House, settings: Settings
) -> None:
    """Nothing is said of an install without secrets, and nothing is made."""
    assert await checks.check_secrets(settings) == []
    settings.data_dir.mkdir()
    key = settings.data_dir / "install.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    wiring.make_secrets(settings, key.read_bytes()).vault.put("TOKEN", "the-value-itself")
    (fine,) = await checks.check_secrets(settings)
    assert (fine.state, fine.message[:4]) == (State.OK, "1 in")
    key.chmod(0o644)
    assert [finding.state for finding in await checks.check_secrets(settings)] == [State.WARN, State.OK]
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    (broken,) = await checks.check_secrets(settings)
    assert (broken.state, "another install.key" in broken.message) == (State.FAIL, True)


async def test_a_damaged_database_is_found(settings: Settings) -> None:
    """It says what to do; so does one of a newer version."""
    settings.data_dir.mkdir()
    database = settings.data_dir / "runner.db"
    database.write_bytes(b"SQLite format 3\x00" + b"x" * 4096)
    (finding,) = await checks.check_database(settings)
    assert (finding.state, "copy" in str(finding.hint)) == (State.FAIL, True)
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
        connection.commit()
    (finding,) = await checks.check_database(settings)
    assert (finding.state, "Upgrade" in str(finding.hint)) == (State.FAIL, True)


async def test_a_model_on_loopback_is_pointed_out(settings: Settings) -> None:
    """A container cannot reach it; on the process backend it can."""
    folder = settings.data_dir / "configs" / "opencode"
    folder.mkdir(parents=True)
    provider = {"provider": {"mine": {"options": {"baseURL": "http://localhost:11434/v1"}}}}
    (folder / "default-config.json").write_text(json.dumps(provider))
    (finding,) = await checks.check_models(settings)
    assert (finding.state, "host.docker.internal" in str(finding.hint)) == (State.WARN, True)
    assert await checks.check_models(settings.model_copy(update={"backend": "process"})) == []


async def test_a_data_folder_below_a_file_is_found(settings: Settings) -> None:
    """Where no folder can be made, it says so before the first run does."""
    settings.data_dir.write_text("a file")
    findings = await checks.check_data_folder(settings)
    assert [finding.state for finding in findings] == [State.FAIL]


async def test_more_memory_than_there_is_fails(settings: Settings) -> None:
    """The engine would refuse every start."""
    findings = await checks.check_limits(settings.model_copy(update={"memory_mb": 1 << 30}))
    assert [finding.state for finding in findings if finding.check == "memory"] == [State.FAIL]


async def test_a_data_folder_where_nothing_can_be_made_is_found(settings: Settings) -> None:
    """The nearest folder that is there decides, and by trying: even root can make nothing in some."""
    for folder in (Path("/proc/nowhere/data"), settings.data_dir / "file" / "data"):
        settings.data_dir.mkdir(exist_ok=True)
        (settings.data_dir / "file").touch()
        findings = await checks.check_data_folder(settings.model_copy(update={"data_dir": folder}))
        assert [finding.state for finding in findings] == [State.FAIL]


class UnlimitingBackend(FakeBackend):
    """Limits nothing, as processes of this machine."""

    @property
    def capabilities(self) -> Capabilities:
        """All but limits."""
        return replace(super().capabilities, limits_memory=False, limits_cpu=False)


async def test_limits_that_are_not_applied_are_not_promised(
    settings: Settings, use_backend: Callable[[FakeBackend], None]
) -> None:
    """What a backend cannot limit is no share of an agent's."""
    assert {finding.check for finding in await checks.check_limits(settings)} == {"memory", "cpu"}
    use_backend(UnlimitingBackend())
    assert await checks.check_limits(settings) == []


async def test_doctor_does_not_send_to_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint of a missing engine is what one can do besides."""

    def refuse(_: Settings) -> FakeBackend:
        raise EngineUnavailable("No engine answers.")

    monkeypatch.setattr(wiring, "make_backend", refuse)
    (finding,) = await checks.check_engine(settings)
    assert ("DOCKER_HOST" in str(finding.hint), "doctor" in str(finding.hint)) == (True, False)


async def test_a_runtime_that_the_engine_does_not_know_is_found(
    settings: Settings, use_backend: Callable[[FakeBackend], None]
) -> None:
    """It names those that it knows, before any agent is refused."""
    use_backend(FakeBackend())
    found = await checks.check_engine(settings.model_copy(update={"runtime": "runsc"}))

    (runtime,) = [finding for finding in found if finding.check == "runtime"]
    assert (runtime.state, "knows fake" in runtime.message) == (State.FAIL, True)
    assert await checks.check_engine(settings.model_copy(update={"runtime": "fake"})) == found[:1]
