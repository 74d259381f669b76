"""New secrets for a container that runs: an archive for a command inside, which replaces file by file."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import anyio

from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.options import KIT_FOLDER, LAYOUT
from cnap_runner.backends.docker.output import run_with_input
from cnap_runner.errors import BackendError, InvalidInput

TIMEOUT = timedelta(seconds=60)
"""Delivery takes a tenth of a second; on a host with no time to spare far more."""

# $1: bytes of the archive, after which nothing is waited for; $2: a program that all the others are part of, or nothing.
# Renaming within one file system is what makes each file whole at each moment. What was interrupted before is dropped first.
_SCRIPT = """
set -eu
umask 077
cd "$0"
tools=${2-}
$tools rm -rf .new
trap '$tools rm -rf .new' EXIT
$tools mkdir .new
$tools head -c "$1" | $tools tar -xof - -C .new
shift $#
for file in *; do
    [ -e ".new/$file" ] || set -- "$@" "$file"
done
for file in .new/*; do
    $tools mv -f "$file" .
done
[ $# -eq 0 ] || $tools rm -f -- "$@"
"""


async def deliver(engine: Engine, container: Mapping[str, Any], secrets: bytes) -> None:
    """Replace the files in a container's memory; ``container`` is what the engine says of it.

    Raises `EngineRefusal`, `InvalidInput` for what is no archive of plain files, and `BackendError` where the command fails.
    """
    check_archive(secrets)
    # An image that is not ours may have no shell and no tools.
    has_kit = any(mount["Destination"].startswith(KIT_FOLDER) for mount in container.get("Mounts") or ())
    tools = f"{KIT_FOLDER}/busybox" if has_kit else ""
    shell: Sequence[str] = [tools, "sh"] if has_kit else ["sh"]
    argv = [*shell, "-c", _SCRIPT, LAYOUT.secrets, str(len(secrets)), tools]
    try:
        with anyio.fail_after(TIMEOUT.total_seconds()):
            done = await run_with_input(engine, container["Id"], argv, content=secrets)
    except TimeoutError as error:
        raise BackendError(f"The instance did not take its secrets within {TIMEOUT.total_seconds():.0f} s.") from error
    if done.exit_code != 0:
        # Its words are those of tools: they name files, never what is in them.
        words = " ".join(done.output.decode(errors="replace").split())
        raise BackendError(f"The instance's secrets were not replaced (exit code {done.exit_code}): {words}.")


def check_archive(secrets: bytes) -> None:
    """Raise `InvalidInput` for what is no tar archive of plain files without folders."""
    try:
        with tarfile.open(fileobj=io.BytesIO(secrets), mode="r:") as archive:
            strange = [entry.name for entry in archive if not entry.isfile() or not _is_plain(entry.name)]
    except tarfile.TarError as error:
        raise InvalidInput("The secrets are no tar archive.") from error
    if strange:
        raise InvalidInput(f"The secrets hold {strange[0]!r}, which is no plain file.")


def _is_plain(name: str) -> bool:
    return "/" not in name and not name.startswith(".")
