"""An image that is not ours, made to start OpenCode: what a kit changes in the create options."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from cnap_runner.model.kit import Kit, KitMount

_VOLUME_SHARE = 4
"""A volume of the image is in memory; it may take at most one part in so many of the agent's limit."""


def bring_kit(config: dict[str, Any], kit: Kit, *, memory_bytes: int, user: tuple[int, int]) -> dict[str, Any]:
    """Give the create options with a kit brought in. Entry point, stop signal and volumes of the image have no say any more."""
    host = config["HostConfig"]
    taken = {mount["Target"] for mount in host["Mounts"]} | set(host["Tmpfs"])
    options = f"rw,exec,nosuid,nodev,uid={user[0]},gid={user[1]},mode=0755,size={memory_bytes // _VOLUME_SHARE}"
    volumes = {path: options for path in map(_normal, kit.volumes) if path not in taken}
    return {
        **config,
        "Entrypoint": list(kit.launcher),
        "StopSignal": "SIGTERM",
        "Env": [
            *config["Env"],
            *(f"{name}={value}" for name, value in kit.environment.items()),
            *_removals(config, kit),
        ],
        "HostConfig": {
            **host,
            "Mounts": [*host["Mounts"], *map(_mount, kit.mounts)],
            "Tmpfs": {**host["Tmpfs"], **volumes},
        },
    }


def _removals(config: dict[str, Any], kit: Kit) -> list[str]:
    """A name without a value takes a variable of the image away; those that are set here stay."""
    given = {entry.partition("=")[0] for entry in config["Env"]} | set(kit.environment)
    return [name for name in kit.dropped if name not in given]


def _normal(path: str) -> str:
    return str(PurePosixPath(path))


def _mount(mount: KitMount) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(mount.source), "Target": mount.target, "ReadOnly": True}
