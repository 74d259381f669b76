"""What an instance gets of the host besides its limits, and which sizes no host can give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnap_runner.errors import InvalidInput

ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
"""Names that engines know (docs.docker.com, "docker run --ulimit"). ``nproc`` counts all processes of the agent's user on the
host, those of other agents too."""
UNLIMITED = -1
_LARGEST = (1 << 63) - 1
"""What engines and the kernel hold a limit in."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What an instance gets of the host besides its limits. Fixed for its life."""

    shm_bytes: int | None = None
    """Size of ``/dev/shm``; None: the backend's default."""
    ulimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Name → soft and hard limit of each process; -1: unlimited."""
    gpus: int | None = None
    """How many; -1: all."""
    devices: tuple[str, ...] = ()
    """Paths of the host's devices."""
    disk_bytes: int | None = None
    """Quota of the instance's own layer, where the engine's storage has one."""


def check_sizes(hardware: Hardware, *, memory_bytes: int) -> None:
    """Raise `InvalidInput` for sizes and limits of processes that no host can give."""
    if hardware.shm_bytes is not None and hardware.shm_bytes > memory_bytes:
        raise InvalidInput(
            f"{hardware.shm_bytes >> 20} MiB of shared memory are more than the {memory_bytes >> 20} MiB that may be used in all.",
            hint="Lower resources.shm_mb, or raise resources.memory_mb.",
        )
    for name, (soft, hard) in hardware.ulimits.items():
        if name not in ULIMITS:
            raise InvalidInput(f"There is no ulimit {name[:80]!r}; known are {', '.join(sorted(ULIMITS))}.")
        if not all(UNLIMITED <= limit <= _LARGEST for limit in (soft, hard)):
            raise InvalidInput(f"Ulimit {name!r} is no number from 0 to {_LARGEST}, nor {UNLIMITED} for unlimited.")
        if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
            raise InvalidInput(f"The soft limit of ulimit {name!r} is above its hard limit ({soft}, {hard}).")
