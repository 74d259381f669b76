"""Stand-ins for what the image's parts reach for outside: a registry's npm, and a cache of one's own."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from cnap_runner.image.packages import Package


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, never the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CNAP_RUNNER_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The tarball that the registry behind `npm_calls` serves: one small executable where OpenCode's is."""
    tarball = tmp_path / "served.tgz"
    program = b"#!/bin/sh\necho 1.2.3\n"
    with tarfile.open(tarball, "w:gz") as archive:
        member = tarfile.TarInfo("package/bin/opencode")
        member.size = len(program)
        archive.addfile(member, io.BytesIO(program))
    return tarball


@pytest.fixture
def package(served: Path) -> Package:
    """The pin of what is served."""
    checksum = base64.b64encode(hashlib.sha512(served.read_bytes()).digest()).decode()
    return Package("opencode-test", "1.2.3", f"sha512-{checksum}")


@pytest.fixture
def npm_calls(tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm on PATH that serves one tarball, slowly, and writes each call into the returned file."""
    calls = tmp_path / "npm-calls"
    calls.touch()
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$2" >>{calls}\nsleep 0.2\ncp {served} "$4/fetched.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    return calls
