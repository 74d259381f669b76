"""What an instance's processes get from this machine: folders, variables, and memory for their secrets."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path

from cnap_runner.backends.process_launcher.files import SECRETS
from cnap_runner.backends.process_launcher.tree import MARK
from cnap_runner.errors import InvalidInput
from cnap_runner.model.instance import InstanceSpec, Layout, VolumeRole

PASSED_ON = (
    "PATH",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""Patterns of the manager's variables that an instance inherits; all others stay with the manager."""

_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def layout_in(folder: Path, spec: InstanceSpec) -> Layout:
    """Tell where an instance sees its folders: where they are. Raises `InvalidInput` when one is missing."""
    sources = {volume.role: str(volume.source) for volume in spec.volumes}
    missing = [role.value for role in VolumeRole if role not in sources]
    if missing:
        raise InvalidInput(f"The process backend needs a folder for each role; there is none for {', '.join(missing)}.")
    return Layout(
        workspace=sources[VolumeRole.WORKSPACE],
        state=sources[VolumeRole.STATE],
        home=sources[VolumeRole.HOME],
        settings=sources[VolumeRole.SETTINGS],
        secrets=str(folder / SECRETS),
    )


def instance_environment(
    instance_id: str, layout: Layout, *, wanted: Mapping[str, str], manager: Mapping[str, str]
) -> dict[str, str]:
    """Put together the whole environment of an instance's processes. Holds no secret but what a proxy's address may carry."""
    passed_on = {name: value for name, value in manager.items() if _is_passed_on(name)}
    return {
        **passed_on,
        **wanted,
        "HOME": layout.home,
        "XDG_DATA_HOME": layout.state,
        "XDG_CACHE_HOME": f"{layout.home}/.cache",
        MARK: instance_id,
    }


def find_memory(manager: Mapping[str, str]) -> Path | None:
    """Find a folder of this user on a memory file system; None where the machine has none."""
    kinds = _file_systems()
    for candidate in (manager.get("XDG_RUNTIME_DIR"), "/dev/shm"):  # noqa: S108 - folders in it are made by mkdtemp
        if candidate and os.access(candidate, os.W_OK | os.X_OK) and _kind_of(candidate, kinds) in _MEMORY_FILE_SYSTEMS:
            return Path(candidate)
    return None


def _is_passed_on(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in PASSED_ON)


def _file_systems() -> dict[Path, str]:
    """Read mount points and their kinds; of two on one point the later hides the earlier."""
    kinds = {}
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, point, kind, *_ = line.split(" ")
        kinds[Path(point)] = kind
    return kinds


def _kind_of(folder: str, kinds: Mapping[Path, str]) -> str | None:
    real = Path(folder).resolve()
    return next((kinds[place] for place in (real, *real.parents) if place in kinds), None)
