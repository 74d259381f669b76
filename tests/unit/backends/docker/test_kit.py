"""What a kit changes in what the engine is asked to create."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnap_runner.backends.docker.kit import bring_kit
from cnap_runner.model.kit import Kit, KitMount

CONFIG: dict[str, Any] = {
    "Image": "project:1",
    "Env": ["HOME=/agent/home", "OPENCODE_CONFIG_DIR=/agent/settings/opencode"],
    "HostConfig": {
        "ReadonlyRootfs": True,
        "Mounts": [{"Type": "bind", "Source": "/data/w", "Target": "/workspace", "ReadOnly": False}],
        "Tmpfs": {"/tmp": "size=1"},  # noqa: S108 - inside
    },
}
KIT = Kit(
    mounts=(KitMount(Path("/kit/opencode"), "/usr/local/bin/opencode"),),
    launcher=("/launch", "serve"),
    environment={"PATH": "/project/bin:/ours"},
    dropped=("OPENCODE_CONFIG_DIR", "OPENCODE_PERMISSION", "PATH"),
    volumes=("/var/lib/things/", "/workspace", "/tmp"),  # noqa: S108 - inside
)


def brought() -> dict[str, Any]:
    return bring_kit(CONFIG, KIT, memory_bytes=1 << 30, user=(1000, 1001))


def test_the_launcher_starts_whatever_the_image_would() -> None:
    """Entry point and stop signal of the image have no say; the rest of the confinement stays."""
    made = brought()
    assert (made["Entrypoint"], made["StopSignal"]) == (["/launch", "serve"], "SIGTERM")
    assert made["HostConfig"]["ReadonlyRootfs"] is True


def test_a_kit_is_mounted_read_only_beside_the_agents_folders() -> None:
    """Nothing of it can be changed from inside."""
    workspace, opencode = brought()["HostConfig"]["Mounts"]
    assert workspace["Target"] == "/workspace"
    assert opencode == {
        "Type": "bind",
        "Source": "/kit/opencode",
        "Target": "/usr/local/bin/opencode",
        "ReadOnly": True,
    }


def test_a_variable_of_the_image_is_taken_away_unless_it_is_set_here() -> None:
    """To the engine, a name without a value means that."""
    assert brought()["Env"] == [*CONFIG["Env"], "PATH=/project/bin:/ours", "OPENCODE_PERMISSION"]


def test_volumes_of_the_image_are_memory_of_the_agent() -> None:
    """On the engine's disk they would be outside of every quota. Our own mounts and memory stay as they are."""
    tmpfs = brought()["HostConfig"]["Tmpfs"]
    assert tmpfs.keys() == {"/tmp", "/var/lib/things"}  # noqa: S108 - inside
    assert "uid=1000,gid=1001" in tmpfs["/var/lib/things"]
    assert tmpfs["/tmp"] == "size=1"  # noqa: S108 - inside
