"""Workspaces to be seeded, and git servers on loopback: git's own http-backend behind Python's own HTTP server."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cnap_runner import AgentSpec, Settings, Workspace
from cnap_runner.errors import SecretUnavailable
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.runner.workspaces.seeding import Seeder, check_seed
from cnap_runner.telemetry.redaction import Redactor
from cnap_runner.testing.http_server import serving


def no_value(name: str) -> str:
    raise SecretUnavailable(f"{name} has no value.")


class Place:
    """One agent's folders and a seeder."""

    def __init__(self, data_dir: Path) -> None:
        self.folders = AgentFolders(data_dir, "alice")
        self.redactor = Redactor()
        self.settings: dict[str, Any] = {}

    async def seed(
        self,
        *,
        owner: tuple[int, int] | None = None,
        value: Callable[[str], str] = no_value,
        **workspace: Any,
    ) -> None:
        spec = AgentSpec(agent_id="alice", model="fake/demo", workspace=Workspace(**workspace))
        await anyio.to_thread.run_sync(self.folders.make, owner)
        await anyio.to_thread.run_sync(check_seed, spec.workspace, self.folders)
        settings = Settings(data_dir=self.folders.data_dir, **self.settings)
        await Seeder(settings, self.redactor, {}).seed(spec, self.folders, owner=owner, value=value)

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folders.workspace.iterdir())

    @property
    def leftovers(self) -> list[str]:
        return [path.name for path in self.folders.workspace.parent.iterdir() if path.name != "alice"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


@contextmanager
def git_server(root: Path, *, user: str, password: str, asked: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Serve the repositories below a folder; ``asked`` is called while an authorised client waits for its answer."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked()
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            done = subprocess.run(
                ["git", "http-backend"],
                input=self.rfile.read(length),
                capture_output=True,
                check=True,
                env={
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "CONTENT_LENGTH": str(length),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "REMOTE_ADDR": "127.0.0.1",
                },
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            self.send_response(200)
            for line in head.decode().splitlines():
                name, _, value = line.partition(": ")
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name is the library's

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(Handler) as port:
        yield port


def make_repository(root: Path, name: str = "project") -> Path:
    """Make a bare repository with three commits, a branch ``side`` and a tag ``v1``; give its path."""
    work, bare = root / f"{name}-work", root / f"{name}.git"
    identity = {
        "GIT_AUTHOR_NAME": "T",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "T",
        "GIT_COMMITTER_EMAIL": "t@example.org",
        "HOME": str(root),
        "PATH": os.environ["PATH"],
    }

    def git(*arguments: str, cwd: Path = work) -> None:
        subprocess.run(["git", *arguments], cwd=cwd, env=identity, check=True, capture_output=True)

    work.mkdir(parents=True)
    git("init", "-q", "-b", "main")
    for text in ("one", "two", "three"):
        (work / "README.md").write_text(text)
        (work / "link").unlink(missing_ok=True)
        (work / "link").symlink_to("README.md")
        git("add", "-A")
        git("commit", "-q", "-m", text)
    git("tag", "v1", "HEAD~1")
    git("checkout", "-q", "-b", "side")
    (work / "side.txt").write_text("side")
    git("add", "-A")
    git("commit", "-q", "-m", "side")
    git("checkout", "-q", "main")
    git("clone", "-q", "--bare", str(work), str(bare), cwd=root)
    return bare


@contextmanager
def redirecting(target: str) -> Iterator[int]:
    """Send every request elsewhere; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{target}/info/refs?service=git-upload-pack")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(Handler) as port:
        yield port


@contextmanager
def silent() -> Iterator[int]:
    """Take connections and never answer; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("git"))


@pytest.fixture
def new_repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path)


@pytest.fixture
def serve_git() -> Callable[..., AbstractContextManager[int]]:
    return git_server


@pytest.fixture
def serve_redirect() -> Callable[[str], AbstractContextManager[int]]:
    return redirecting


@pytest.fixture
def serve_silence() -> Callable[[], AbstractContextManager[int]]:
    return silent
