"""Cloning a repository on the manager's side, by the system's own git, without leaving its credentials anywhere.

Credentials reach git through a pipe that a credential helper reads (gitcredentials(7)): not by arguments, environment, URL or
``.git/config``. The helper answers for the repository's own host alone. What a repository, or whoever wrote its address, could use to run
commands here is closed: hooks and templates, submodules, LFS filters, ``ext::`` (``GIT_ALLOW_PROTOCOL``, git(1)), arguments that look like
options. The user's and the system's own git configuration are not read.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import anyio
import anyio.to_thread
from anyio.abc import ByteReceiveStream, Process

from cnap_runner.errors import WorkspaceSeedFailed
from cnap_runner.model.git_source import GitSource

TAIL_BYTES = 4096
"""How much of git's last words is kept."""

PASSED_ON = ("PATH", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
PROXIES = ("http_proxy", "https_proxy", "no_proxy")

_SAID_ALWAYS = ("Please make sure you have", "and the repository exists", "Cloning into")
"""Lines of git's that help nobody."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who may read a repository."""

    user: str = field(repr=False)
    password: str = field(repr=False)

    def lines(self) -> bytes:
        """Write them as git's helpers do. Raises `WorkspaceSeedFailed` for a value that has line ends."""
        if any(c in self.user + self.password for c in "\r\n\0"):
            raise WorkspaceSeedFailed("A credential for workspace.git has line ends in it.", hint="Store it without.")
        return f"username={self.user}\npassword={self.password}\n".encode()


@dataclass(frozen=True, slots=True)
class Clone:
    """One clone to be made."""

    source: GitSource
    branch: str | None = None
    depth: int | None = None
    credentials: Credentials | None = None
    ca_file: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """``http_proxy``, ``https_proxy``, ``no_proxy`` → value."""

    def command(self, target: Path) -> list[str]:
        """Give git's arguments. What comes from outside follows ``=`` or ``--``."""
        options = ["--quiet", "--no-recurse-submodules", "--template=", "--no-local"]
        if self.branch is not None:
            options.append(f"--branch={self.branch}")
        if self.depth is not None:
            options.append(f"--depth={self.depth}")
        return ["git", "clone", *options, "--", self.source.url, str(target)]

    def configuration(self, pipe: int | None) -> str:
        """Write git's configuration for this clone alone; ``pipe`` is where the helper reads."""
        lines = ["[core]", "hooksPath = /dev/null", "[credential]", "helper =", "[submodule]", "recurse = false"]
        if self.ca_file is not None:
            lines += ["[http]", f"sslCAInfo = {_quoted(str(self.ca_file))}"]
        if self.source.protocol == "file":
            lines += ["[safe]", "directory = *"]  # the operator named this path; its owner may be another
        if pipe is not None:
            helper = f'!f() {{ test "$1" = get && cat /dev/fd/{pipe}; }}; f'
            lines += [f"[credential {_quoted(self.source.site)}]", f"helper = {_quoted(helper)}"]
        return "\n".join(lines) + "\n"

    def environment(self, home: Path) -> dict[str, str]:
        """Give all of git's environment. Nothing in it is secret."""
        protocols = "http:https" if self.source.protocol in {"http", "https"} else self.source.protocol
        return {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            **self.proxies,
            "HOME": str(home),
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_TERMINAL_PROMPT": "0",
        }


async def clone(wanted: Clone, target: Path) -> None:
    """Clone into an empty folder. Cancelled, git and all it started are killed.

    Raises `WorkspaceSeedFailed` with git's last words, unredacted.
    """
    with _piped(wanted.credentials) as pipe:
        home = await anyio.to_thread.run_sync(_make_home, wanted.configuration(pipe))
        try:
            process, words = await _run(wanted, target, home, pipe)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(partial(shutil.rmtree, home, ignore_errors=True))
    if process.returncode != 0:
        raise WorkspaceSeedFailed(f"git clone failed: {_sentence(words)}.")


async def _run(wanted: Clone, target: Path, home: Path, pipe: int | None) -> tuple[Process, str]:
    try:
        process = await anyio.open_process(
            wanted.command(target),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=wanted.environment(home),
            pass_fds=() if pipe is None else (pipe,),
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise WorkspaceSeedFailed("git is not installed here.", hint="Install it: `apt-get install git`.") from error
    return process, await _follow(process)


def _make_home(configuration: str) -> Path:
    """Make a home of git's own, with no configuration but ours."""
    home = Path(mkdtemp(prefix="cnap-runner-git-"))
    (home / ".gitconfig").write_text(configuration, encoding="utf-8")
    return home


async def _follow(process: Process) -> str:
    """Wait for git's end and return its last words; leave nothing of it running, whatever happens."""
    tail = b""
    try:
        if isinstance(process.stderr, ByteReceiveStream):
            async for data in process.stderr:
                tail = (tail + data)[-TAIL_BYTES:]
        await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            _kill_group(process)
            await process.aclose()
    return tail.decode(errors="replace")


def _kill_group(process: Process) -> None:
    """Kill git and its helpers, unless it has ended: it leads a session of its own."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _sentence(words: str) -> str:
    """Give what git complained of, on one line."""
    lines = ["".join(c if c.isprintable() else " " for c in line).strip() for line in words.splitlines()]
    telling = [line for line in lines if line and not line.startswith(_SAID_ALWAYS)]
    return " / ".join((telling or ["it said nothing"])[-3:]).rstrip(". ")[-500:]


def _quoted(text: str) -> str:
    """Quote a value or the name of a section for git's configuration (git-config(1), SYNTAX)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@contextmanager
def _piped(credentials: Credentials | None) -> Iterator[int | None]:
    """Put credentials into a pipe, whole, and yield the end to be read; they are gone from it once read."""
    if credentials is None:
        yield None
        return
    reading, writing = os.pipe()
    try:
        try:
            os.set_blocking(writing, False)
            os.write(writing, credentials.lines())
        finally:
            os.close(writing)
        yield reading
    finally:
        os.close(reading)
