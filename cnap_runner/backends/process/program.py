"""What is known of the OpenCode program and of this machine, for ``check``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cnap_runner.backends.process.environment import find_memory
from cnap_runner.backends.process.spawn import require_binary
from cnap_runner.backends.process_launcher.files import write_json
from cnap_runner.errors import EngineUnavailable
from cnap_runner.model.engine import EngineInfo

VERSION_FILE = ".opencode-version.json"
_TIMEOUT_SECONDS = 30

ALWAYS = (
    "The process backend isolates nothing: agents work as this user, on its files and its network. Use docker where you can.",
    "The process backend applies no limits of memory, CPU and processes.",
)
"""What this backend can never do."""
NO_MEMORY = (
    "No memory file system holds the secrets: they lie on the disk while an agent lives. Mount a tmpfs on /dev/shm."
)


def look_around(binary: Path, folder: Path) -> EngineInfo:
    """Find out whether instances can run here, and what they must do without. Raises `EngineUnavailable`."""
    require_kernel()
    memory = find_memory(os.environ)
    return EngineInfo(
        name="process",
        version=binary_version(binary, folder),
        details={"binary": str(binary), "secrets": str(memory or folder)},
        problems=ALWAYS if memory is not None else (*ALWAYS, NO_MEMORY),
    )


def require_kernel() -> None:
    """Raise `EngineUnavailable` where the kernel lacks what this backend stands on."""
    if sys.platform != "linux" or not Path("/proc/self/stat").exists():
        raise EngineUnavailable("The process backend needs Linux with /proc.", hint="Use the docker backend here.")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise EngineUnavailable(
            "The process backend needs Linux 5.3 or newer.", hint="Use the docker backend here."
        ) from error


def binary_version(binary: Path, cache_folder: Path) -> str:
    """Ask OpenCode for its version. It takes 1.5 s, so the answer is kept with the file's time and size.

    Raises `EngineUnavailable` where it cannot be executed.
    """
    require_binary(binary)
    status = binary.stat()
    key = {"path": str(binary), "mtime_ns": status.st_mtime_ns, "size": status.st_size}
    known = _read(cache_folder / VERSION_FILE)
    if {name: known.get(name) for name in key} == key and isinstance(known.get("version"), str):
        return str(known["version"])
    version = _ask(binary)
    if cache_folder.is_dir() and os.access(cache_folder, os.W_OK):
        write_json(cache_folder / VERSION_FILE, {**key, "version": version})
    return version


def _ask(binary: Path) -> str:
    # It makes folders in its home, even for this; they must not appear in the user's.
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                [str(binary), "--version"],
                capture_output=True,
                check=True,
                timeout=_TIMEOUT_SECONDS,
                stdin=subprocess.DEVNULL,
                cwd=home,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": home},
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EngineUnavailable(
                f"{binary} does not tell its version.", hint="It may be made for another kind of machine."
            ) from error
    return done.stdout.decode(errors="replace").strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
