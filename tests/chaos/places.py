"""Where the parts of a chaos run find each other: one folder, handed to every process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

IMAGE = "cnap-runner:latest"
ENGINE = "chaos"
WITNESS = "witness"
"""A worker that the trouble does not know: what it holds at the end is what a long-lived manager leaks."""
DISK_MB = 4096
"""Of the small disk that the data folder is on."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folder of one chaos run."""

    folder: Path

    @property
    def disk(self) -> Path:
        """Mount point of the small disk."""
        return self.folder / "disk"

    @property
    def data(self) -> Path:
        """The install."""
        return self.disk / "data"

    @property
    def ballast(self) -> Path:
        """What fills the disk."""
        return self.disk / "ballast"

    @property
    def socket(self) -> Path:
        """The engine, behind the proxy that cuts connections."""
        return self.folder / "engine.sock"

    @property
    def model_log(self) -> Path:
        """The requests that reached the model."""
        return self.folder / "model.jsonl"

    @property
    def workers(self) -> Path:
        """One file per living worker, which holds its pid."""
        return self.folder / "workers"
