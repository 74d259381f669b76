"""The schema's versions."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cnap_runner.errors import StoreError, StoreTooNew
from cnap_runner.model.run import RunState
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.store import sqlite
from cnap_runner.store.schema import SCHEMA_VERSION, metadata
from cnap_runner.store.sql import SqlStore
from cnap_runner.store.upgrade import alembic_config, stored_version, upgrade

GOLDEN = Path(__file__).parent / "golden"
LIMIT = timedelta(seconds=5)


def test_the_migrations_end_at_the_schema_of_the_code(path: Path) -> None:
    """The newest revision is SCHEMA_VERSION, and migrating makes exactly the tables the code works with."""
    with sqlite.connect(path, "write", busy_timeout=LIMIT) as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_heads() == [SCHEMA_VERSION]
        with connection.begin():
            assert stored_version(connection) == SCHEMA_VERSION
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_every_schema_version_has_its_golden_database() -> None:
    """A new migration needs a dump of a database written by the code that had it."""
    versions = [file.stem for file in sorted(GOLDEN.glob("*.sql"))]
    assert versions[-1] == SCHEMA_VERSION


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.sql")), ids=lambda file: file.stem)
async def test_a_database_of_each_version_opens_migrates_and_reads(golden: Path, tmp_path: Path) -> None:
    """Whatever version wrote it: all that is in it is read."""
    with sqlite3.connect(tmp_path / "runner.db") as raw:
        raw.executescript(golden.read_text())
    raw.close()
    store = SqlStore(tmp_path / "runner.db")
    await store.open()
    assert await store.install_id() == "golden000001"
    (alice,) = await store.list_agents()
    assert alice.spec.life.max_run_time == timedelta(minutes=5)
    assert alice.spec.opencode == {"provider": {"fake": {"npm": "@ai-sdk/openai-compatible"}}}
    assert (alice.runner.status, alice.runner.instance_id) == (RunnerStatus.READY, "i1")
    is_known = golden.stem >= "0002"
    assert (alice.runner.settings_hash, alice.runner.limits is not None) == ("s" if is_known else None, is_known)
    queued, ended = await store.list_runs("alice")
    assert (queued.state, ended.state) == (RunState.QUEUED, RunState.ENDED)
    assert ended.result is not None
    assert (ended.result.output, ended.result.usage.input_tokens) == ("done", 7)
    assert [wish.kind for wish in await store.wishes_for(queued)] == ["abort"]
    assert await store.session_of("alice", "main") == "ses"
    lease = await store.get_lease("alice")
    assert lease is not None
    assert await store.forget_dead_managers(lambda _: False) == ["m1"]
    await store.aclose()


async def test_a_database_of_a_newer_version_is_refused_unchanged(path: Path) -> None:
    """A revision this version does not know raises StoreTooNew, and the file stays as it was."""
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    before = path.read_bytes()
    store = SqlStore(path)
    with pytest.raises(StoreTooNew, match="9999"):
        await store.open()
    await store.aclose()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    """Garbage in its place raises StoreError."""
    (tmp_path / "runner.db").write_bytes(b"garbage" * 1000)
    store = SqlStore(tmp_path / "runner.db")
    with pytest.raises(StoreError, match="not a database"):
        await store.open()
    await store.aclose()


def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations are one transaction: what fails on the way is as if it had never begun, and can be done again."""
    from alembic import op

    path = tmp_path / "runner.db"
    with monkeypatch.context() as broken:
        broken.setattr(op, "create_index", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upgrade(path, busy_timeout=LIMIT)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    raw.close()
    upgrade(path, busy_timeout=LIMIT)


def test_a_new_database_belongs_to_its_owner_alone(path: Path, tmp_path: Path) -> None:
    """The file holds prompts and outputs: nobody else may read it. Missing folders are made."""
    made = tmp_path / "new" / "folder" / "runner.db"
    upgrade(made, busy_timeout=LIMIT)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_opening_a_database_of_this_version_does_not_load_alembic(path: Path) -> None:
    """Half a second that each call of the command line would pay."""
    code = (
        "import anyio, pathlib, sys; from cnap_runner.store.sql import SqlStore\n"
        "async def main():\n"
        "    store = SqlStore(pathlib.Path(sys.argv[1])); await store.open(); await store.install_id(); await store.aclose()\n"
        "anyio.run(main); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
