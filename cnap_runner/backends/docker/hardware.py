"""What an instance gets of the host besides its limits: checked against the host, then said in the engine's words."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnap_runner.backends.docker.address import EngineAddress
from cnap_runner.backends.docker.facts import EngineFacts
from cnap_runner.errors import InvalidInput
from cnap_runner.model.hardware import Hardware, check_sizes
from cnap_runner.model.instance import InstanceSpec

_GPU_HOOK = "nvidia-container-runtime-hook"
"""NVIDIA's toolkit: the engine looks for this program, and needs no setting where it is installed."""
_QUOTA_DRIVERS = frozenset({"btrfs", "zfs", "devicemapper"})
_QUOTA_OPTIONS = frozenset({"pquota", "prjquota"})


def hardware_options(spec: InstanceSpec, facts: EngineFacts, address: EngineAddress) -> dict[str, Any]:
    """Give the part of ``HostConfig`` for a spec's runtime and hardware. Looks at devices of this machine, so it may block.

    Raises `InvalidInput` for what the engine or its host does not have.
    """
    hardware = spec.hardware
    check_sizes(hardware, memory_bytes=spec.limits.memory_bytes)
    _check_runtime(spec, facts)
    _check_gpus(hardware, facts, address)
    options: dict[str, Any] = {
        "Ulimits": [{"Name": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in hardware.ulimits.items()],
        "Devices": [_device(path) for path in hardware.devices],
    }
    if spec.runtime is not None:
        options["Runtime"] = spec.runtime
    if hardware.shm_bytes is not None:
        options["ShmSize"] = hardware.shm_bytes
    if hardware.gpus is not None:
        options["DeviceRequests"] = [{"Count": hardware.gpus, "Capabilities": [["gpu"]]}]
    if address.is_local and hardware.devices:
        options["GroupAdd"] = sorted({str(gid) for path in hardware.devices for gid in _groups(path)})
    if hardware.disk_bytes is not None and has_layer_quota(facts):
        options["StorageOpt"] = {"size": str(hardware.disk_bytes)}
    return options


def has_layer_quota(facts: EngineFacts) -> bool:
    """Whether the engine's storage can limit a container's own layer. With overlay2 that takes XFS mounted with project quotas."""
    if facts.storage_driver in _QUOTA_DRIVERS:
        return True
    if facts.storage_driver != "overlay2" or facts.backing_filesystem != "xfs":
        return False
    return bool(_mount_options(Path(facts.root_dir)) & _QUOTA_OPTIONS)


def _check_runtime(spec: InstanceSpec, facts: EngineFacts) -> None:
    if spec.runtime is not None and spec.runtime not in facts.runtimes:
        raise InvalidInput(
            f"The engine knows no runtime {spec.runtime!r}; it knows {', '.join(facts.runtimes)}.",
            hint="Register it under runtimes in the engine's daemon.json, and reload the engine.",
        )


def _check_gpus(hardware: Hardware, facts: EngineFacts, address: EngineAddress) -> None:
    if hardware.gpus is None or facts.offers_gpus:
        return
    if not (address.is_local and shutil.which(_GPU_HOOK)):
        raise InvalidInput(
            "The engine has no GPUs to give.",
            hint="Install the NVIDIA Container Toolkit beside it, or leave resources.gpus out.",
        )


def _device(path: str) -> Mapping[str, str]:
    # Not "m": an agent has no right to make device files anyway.
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}


def _groups(path: str) -> Iterator[int]:
    """Give the group that may use a device: the agent is not root and would otherwise see it and not be let in.

    Raises `InvalidInput` for what is no device of this machine.
    """
    try:
        found = Path(path).stat() if os.path.isabs(path) else None  # noqa: PTH117 - a string is asked
    except OSError:
        found = None
    if found is None or not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise InvalidInput(f"{path!r} is no device of this host.", hint="Give its path, such as /dev/kvm.")
    if found.st_gid != 0 and found.st_mode & stat.S_IRGRP:
        yield found.st_gid


def _mount_options(folder: Path) -> set[str]:
    """Read how the file system of a folder is mounted."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, point, _, options, *_ = line.split(" ")
        mounts[Path(point)] = set(options.split(","))
    return next((mounts[place] for place in (folder, *folder.parents) if place in mounts), set())
