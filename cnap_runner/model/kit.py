"""What brings OpenCode into an image that is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KitMount:
    """One file or folder of the manager's side, seen read-only at an absolute path inside."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class Kit:
    """What brings OpenCode and all it needs into an image that is not ours, and keeps the image's own settings from disturbing it.

    Made by `cnap_runner.image.kit`.
    """

    mounts: tuple[KitMount, ...]
    launcher: tuple[str, ...]
    """The command inside that takes the secrets and starts OpenCode, instead of the image's entry point."""
    environment: Mapping[str, str]
    """Variables that win over the image's, such as its ``PATH`` followed by our tools."""
    dropped: tuple[str, ...] = ()
    """Variables of the image that the instance must not have."""
    volumes: tuple[str, ...] = ()
    """Paths that the image wants as volumes; they are kept in the instance's memory instead."""
