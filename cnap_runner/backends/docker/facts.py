"""What is true of one engine: how large its machine is, which limits it keeps, whose files its containers write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cnap_runner.backends.docker.address import EngineAddress
from cnap_runner.errors import InvalidInput
from cnap_runner.model.engine import EngineInfo
from cnap_runner.model.instance import Limits

AGENT_ID = 10000
"""Uid and gid of an agent whose manager is root: never root inside, whoever the manager is."""

_LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "CPU", "PidsLimit": "pids"}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine says of itself."""

    version: str
    api_version: str
    cpus: int
    memory_bytes: int
    is_rootless: bool
    is_user_remapped: bool
    missing_limits: tuple[str, ...]
    """Limits that the engine would accept and not keep."""
    warnings: tuple[str, ...]
    why_not_closed: str | None
    """Why instances on an internal network could not be reached from here; None: they can."""
    runtimes: tuple[str, ...]
    """OCI runtimes by the engine's names for them."""
    offers_gpus: bool
    """It says that it has some. One with NVIDIA's toolkit only beside it does not say so."""
    storage_driver: str
    backing_filesystem: str
    root_dir: str
    """Where it keeps its containers, on its own machine."""
    details: Mapping[str, str]

    def problems(self, address: EngineAddress) -> tuple[str, ...]:
        """List what does not work as it should and how to mend it, one sentence each."""
        found = [f"The engine keeps no {name} limit; {_MEND_LIMITS}." for name in self.missing_limits]
        if self.is_user_remapped:
            found.append(_REMAPPED)
        if self.why_not_closed is not None:
            found.append(f"{self.why_not_closed} Agents with egress mode none or allowlist are refused.")
        if not address.is_local:
            found.append(
                f"The engine at {address.host} is another machine: agents' ports and folders are not reachable from here; "
                "run cnap-runner there."
            )
        return (*found, *self.warnings)

    def fit(self, limits: Limits) -> Limits:
        """Give the limits that this engine can keep: no more processors than there are.

        Raises `InvalidInput` for memory the host does not have and for limits the engine does not keep: nothing is weakened
        in silence.
        """
        if self.missing_limits:
            names = " and ".join(self.missing_limits)
            raise InvalidInput(f"The engine keeps no {names} limit, and agents run with limits only; {_MEND_LIMITS}.")
        if self.is_user_remapped:
            raise InvalidInput(_REMAPPED)
        if limits.memory_bytes > self.memory_bytes:
            raise InvalidInput(
                f"The host has {self.memory_bytes >> 20} MiB of memory, less than the {limits.memory_bytes >> 20} MiB asked for.",
                hint="Give the agent less with resources.memory_mb.",
            )
        return replace(limits, cpus=min(limits.cpus, float(self.cpus)))

    def user(self, *, uid: int, gid: int) -> tuple[int, int]:
        """Tell uid and gid inside a container for a manager of this uid and gid, so that both own the agent's files."""
        if self.is_rootless:
            return (0, 0)  # that is the engine's own user outside
        return (uid, gid) if uid != 0 else (AGENT_ID, AGENT_ID)

    def engine_info(self, address: EngineAddress) -> EngineInfo:
        """Give the public form."""
        return EngineInfo(name="docker", version=self.version, details=self.details, problems=self.problems(address))


_MEND_LIMITS = "use an engine with root, or a host with cgroup v2 and delegated controllers"
_REMAPPED = (
    "The engine remaps users (userns-remap), so agents could not write their folders; "
    "turn that off, or use a rootless engine of this user."
)


def engine_facts(info: Mapping[str, Any], *, api_version: str) -> EngineFacts:
    """Read the engine's answer to ``GET /info``."""
    options = {str(option).split(",")[0] for option in info.get("SecurityOptions") or ()}
    return EngineFacts(
        version=str(info.get("ServerVersion", "unknown")),
        api_version=api_version,
        cpus=int(info.get("NCPU") or 1),
        memory_bytes=int(info.get("MemTotal") or 0),
        is_rootless="name=rootless" in options,
        why_not_closed=_why_not_closed(info, is_rootless="name=rootless" in options),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        offers_gpus="nvidia" in (info.get("Runtimes") or ()) or bool(info.get("DiscoveredDevices")),
        storage_driver=str(info.get("Driver", "")),
        backing_filesystem=str(dict(info.get("DriverStatus") or ()).get("Backing Filesystem", "")),
        root_dir=str(info.get("DockerRootDir", "")),
        is_user_remapped="name=userns" in options,
        missing_limits=tuple(name for field, name in _LIMITS.items() if info.get(field) is False),
        warnings=_warnings(info),
        details={
            "api": api_version,
            "system": str(info.get("OperatingSystem", "")),
            "architecture": str(info.get("Architecture", "")),
            "storage": str(info.get("Driver", "")),
            "cgroup": str(info.get("CgroupVersion", "1")),
            "runtimes": " ".join(sorted(info.get("Runtimes") or ())),
            "cpus": str(info.get("NCPU", "")),
            "memory_mb": str(int(info.get("MemTotal") or 0) >> 20),
            "is_rootless": str("name=rootless" in options).lower(),
        },
    )


def _why_not_closed(info: Mapping[str, Any], *, is_rootless: bool) -> str | None:
    """Containers on an internal network are reached by their own address, which exists only where their bridge is."""
    if is_rootless:
        return "A rootless engine keeps its containers' addresses to itself."
    if "Docker Desktop" in str(info.get("OperatingSystem", "")):
        return "Docker Desktop keeps its containers' addresses in a virtual machine."
    return None


def _warnings(info: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    if (options := info.get("SecurityOptions")) is not None and not any("name=seccomp" in text for text in options):
        found.append(
            "The engine filters no system calls (seccomp), so agents may make all of them; use a kernel and an engine with it."
        )
    if info.get("SwapLimit") is False:
        found.append(
            "The engine keeps no swap limit, so an agent may use swap beyond its memory; boot with swapaccount=1."
        )
    if info.get("BridgeNfIptables") is False:
        found.append(
            "Packets between containers pass by the engine's filter, so agents can reach each other; load br_netfilter and "
            "set net.bridge.bridge-nf-call-iptables=1."
        )
    return tuple(found)
