"""The machine a measurement was made on, and whether anybody else was using it. Names no host and no path."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

QUIET_LOAD = 0.5
"""Load per core above which somebody else is at work."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What figures depend on."""

    cores: int
    processor: str
    memory_gib: float
    kernel: str
    python: str
    engine: str
    opencode: str

    def __str__(self) -> str:
        return (
            f"{self.cores} cores ({self.processor}), {self.memory_gib:.0f} GiB of memory, Linux {self.kernel}, "
            f"Docker Engine {self.engine}, OpenCode {self.opencode}, Python {self.python}"
        )


def this_machine(*, engine: str, opencode: str) -> Machine:
    """Describe the machine this runs on."""
    return Machine(
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30),
        kernel=platform.release(),
        python=platform.python_version(),
        engine=engine,
        opencode=opencode,
    )


def load() -> float:
    """Tell how many processes wanted to run, averaged over the last minute."""
    return os.getloadavg()[0]


def warning(load_before: float) -> str | None:
    """Say that the machine was not quiet before the measurement; None where it was."""
    cores = os.cpu_count() or 1
    if load_before <= QUIET_LOAD * cores:
        return None
    return f"The machine was not quiet: load {load_before:.1f} on {cores} cores before the first round. Ratios hold better than times."


def _processor() -> str:
    """Give the processor's name as the kernel knows it; of several cores that of the first."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
