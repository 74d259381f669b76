"""Secrets are in memory while the instance lives, and nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.backends.process import ProcessBackend
from cnap_runner.backends.process.environment import find_memory
from cnap_runner.backends.process_launcher.secret_files import BadArchive, remove_secrets, unpack_secrets
from cnap_runner.errors import InstanceExited
from cnap_runner.model.instance import InstanceRef, InstanceSpec

GRACE = timedelta(seconds=5)
PASSWORD = "correct-horse-battery-staple"
KEY = "sk-not-to-be-seen"


def _text_of_files(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.iterdir() if path.is_file() and not path.is_symlink())


async def test_f23_secrets_are_files_of_this_user_in_memory(
    backend: ProcessBackend, started: tuple[InstanceRef, str], make_spec: Callable[..., InstanceSpec]
) -> None:
    """They lie where the layout says, in a folder 0700 as files 0400, on a memory file system."""
    place = Path(backend.layout(make_spec()).secrets)
    assert (place / "env-KEY").read_text() == KEY
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o400}
    assert place.resolve().parent == find_memory(os.environ)


async def test_f23_secrets_are_gone_after_the_end(
    backend: ProcessBackend, started: tuple[InstanceRef, str], make_spec: Callable[..., InstanceSpec]
) -> None:
    """Neither the files nor their folder outlive the instance."""
    ref, _ = started
    place = Path(backend.layout(make_spec()).secrets)
    memory = place.readlink()
    await backend.stop(ref, grace=GRACE)
    assert not memory.exists()
    assert not place.is_symlink()


async def test_f23_secrets_are_in_no_file_argument_or_variable(
    backend: ProcessBackend, started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], probe: Any
) -> None:
    """Only the server's own process knows its password; other secrets are in no process's variables at all."""
    ref, endpoint = started
    folder = Path(ref.handle)
    variables = await ask(endpoint, "/environment")
    assert variables["OPENCODE_SERVER_PASSWORD"] == PASSWORD
    assert KEY not in str(variables)
    launcher, server = probe.pid_of(folder), probe.pid_of(folder, "server")
    assert PASSWORD not in str(probe.environment_of(launcher))
    for pid in (launcher, server):
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert PASSWORD not in arguments
        assert KEY not in arguments
    await backend.stop(ref, grace=GRACE)
    text = _text_of_files(folder)
    assert PASSWORD not in text
    assert KEY not in text


async def test_f23_commands_do_not_get_the_password(backend: ProcessBackend, started: tuple[InstanceRef, str]) -> None:
    """A command beside the server has its variables, but not its password."""
    ref, _ = started
    result = await backend.exec(ref, ["env"], timeout=GRACE)
    assert b"OPENCODE_SERVER_PASSWORD" not in result.output
    assert PASSWORD not in " ".join(backend.shell_command(ref, ["sh"]))


async def test_f23_the_managers_variables_do_not_leak(
    backend: ProcessBackend,
    make_spec: Callable[..., InstanceSpec],
    archive: bytes,
    ask: Callable[[str, str], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An instance gets a few harmless variables of the manager, those of its spec, and its folders."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-managers")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/managers")
    monkeypatch.setenv("LC_TIME", "C")
    spec: InstanceSpec = make_spec(environment={"OPENCODE_CONFIG": "/settings.json"})
    ref = await backend.create(spec)
    endpoint = await backend.start(ref, secrets=archive)
    variables, place = await ask(endpoint, "/environment"), await ask(endpoint, "/place")
    layout = backend.layout(spec)
    assert {"ANTHROPIC_API_KEY", "XDG_CONFIG_HOME"}.isdisjoint(variables)
    assert variables["OPENCODE_CONFIG"] == "/settings.json"
    assert (variables["HOME"], variables["XDG_DATA_HOME"]) == (layout.home, layout.state)
    assert (variables["LC_TIME"], variables["PATH"]) == ("C", os.environ["PATH"])
    assert place["cwd"] == layout.workspace


@pytest.mark.parametrize(
    "files", [{}, {"server-password": ""}, {"../escape": "x", "server-password": "x"}, {"/abs": "x"}]
)
async def test_bad_secrets_are_refused_without_a_trace(
    backend: ProcessBackend, make_spec: Callable[..., InstanceSpec], files: dict[str, str]
) -> None:
    """A server without a password is never started, and nothing is unpacked outside of its folder."""
    ref = await backend.create(make_spec())
    with pytest.raises(InstanceExited, match="exit code 78"):
        await backend.start(ref, secrets=_tar(files))
    assert not (Path(ref.handle) / "secrets").is_symlink()
    assert not (Path(ref.handle) / "escape").exists()
    [line] = [line.text async for line in backend.logs(ref)]
    assert line.startswith("cnap-runner: ")


async def test_what_is_no_archive_is_refused(backend: ProcessBackend, make_spec: Callable[..., InstanceSpec]) -> None:
    """Garbage on standard input ends the instance at once."""
    ref = await backend.create(make_spec())
    with pytest.raises(InstanceExited, match="exit code 78"):
        await backend.start(ref, secrets=b"garbage")


async def test_f23_secrets_go_even_when_the_data_folder_is_deleted(
    started: tuple[InstanceRef, str], ask: Callable[[str, str], Awaitable[Any]], probe: Any
) -> None:
    """Whoever deletes the folder under a running instance leaves no secret in memory once it ends."""
    ref, endpoint = started
    memory = (Path(ref.handle) / "secrets").readlink()
    launcher = probe.pid_of(Path(ref.handle))
    shutil.rmtree(ref.handle)
    await ask(endpoint, "/exit?code=0")
    await probe.until(lambda: not probe.is_alive(launcher))
    assert not memory.exists()


def test_without_memory_they_lie_in_the_instances_folder(tmp_path: Path, archive: bytes) -> None:
    """There is a place for them on any machine, and it is removed like the other."""
    unpack_secrets(tmp_path, archive, memory=None)
    assert (tmp_path / "secrets" / "env-KEY").read_text() == KEY
    remove_secrets(tmp_path)
    assert not (tmp_path / "secrets").exists()


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    """An agent that bends the link makes nobody remove its target."""
    target = tmp_path / "precious"
    target.mkdir()
    (tmp_path / "secrets").symlink_to(target)
    remove_secrets(tmp_path)
    assert target.is_dir()
    assert not (tmp_path / "secrets").is_symlink()


def test_a_link_in_the_archive_is_refused(tmp_path: Path) -> None:
    """Only plain files are secrets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(BadArchive, match="link"):
        unpack_secrets(tmp_path, buffer.getvalue(), memory=None)


def _tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
