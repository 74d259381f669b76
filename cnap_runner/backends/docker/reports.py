"""What the engine says of containers, read into the values of `model.instance`. Plain functions of its JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from cnap_runner.backends.docker.options import SERVER_PORT
from cnap_runner.model.instance import (
    LABEL_AGENT,
    LABEL_GENERATION,
    LABEL_INSTALL,
    LABEL_INSTANCE,
    LABEL_SPEC,
    InstanceEvent,
    InstanceEventKind,
    InstanceRef,
    InstanceStatus,
    Observation,
    ResourceUsage,
)

_STATUSES = {
    "created": InstanceStatus.CREATED,
    "running": InstanceStatus.RUNNING,
    "restarting": InstanceStatus.RUNNING,
    "paused": InstanceStatus.PAUSED,
}
"""All others (exited, dead, removing) are ended ones."""

_EXITED = re.compile(r"Exited \((\d+)\)")
"""How a list words the end of a container: ``Exited (137) 3 minutes ago``."""

EVENT_KINDS = {
    "start": InstanceEventKind.STARTED,
    "die": InstanceEventKind.DIED,
    "oom": InstanceEventKind.OOM,
    "pause": InstanceEventKind.PAUSED,
    "unpause": InstanceEventKind.RESUMED,
    "destroy": InstanceEventKind.REMOVED,
}


class _Identity(TypedDict):
    ref: InstanceRef
    install_id: str
    agent_id: str
    generation: int
    spec_hash: str


def observation(container: Mapping[str, Any]) -> Observation:
    """Read the answer to ``GET /containers/{id}/json``."""
    labels: Mapping[str, str] = container["Config"].get("Labels") or {}
    state: Mapping[str, Any] = container["State"]
    status = _STATUSES.get(state["Status"], InstanceStatus.EXITED)
    has_ended = status is InstanceStatus.EXITED
    is_live = status in {InstanceStatus.RUNNING, InstanceStatus.PAUSED}
    address = _address(container)
    return Observation(
        **_identity(container["Id"], labels),
        status=status,
        address=address if is_live else None,
        endpoint=_endpoint(container, address) if is_live else None,
        exit_code=int(state["ExitCode"]) if has_ended else None,
        is_oom_killed=bool(state.get("OOMKilled")),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")) if has_ended else None,
    )


def listed(entry: Mapping[str, Any]) -> Observation | None:
    """Read one entry of the answer to ``GET /containers/json``: all but times and whether memory ran out, which only `observation` has.

    None where it lacks more: of one that runs without a published port only inspection tells whether it should have one.
    """
    labels: Mapping[str, str] = entry.get("Labels") or {}
    status = _STATUSES.get(entry["State"], InstanceStatus.EXITED)
    is_live = status in {InstanceStatus.RUNNING, InstanceStatus.PAUSED}
    published = next((port for port in entry.get("Ports") or () if port.get("PublicPort") and port.get("IP")), None)
    if is_live and published is None:
        return None
    code = _EXITED.match(entry.get("Status") or "") if status is InstanceStatus.EXITED else None
    return Observation(
        **_identity(entry["Id"], labels),
        status=status,
        address=_address(entry) if is_live else None,
        endpoint=f"http://{published['IP']}:{published['PublicPort']}" if is_live and published else None,
        exit_code=int(code[1]) if code else None,
    )


def event(said: Mapping[str, Any]) -> InstanceEvent | None:
    """Read one message of ``GET /events``; None for those that say nothing new."""
    kind = EVENT_KINDS.get(said.get("Action", ""))
    attributes: Mapping[str, str] = said.get("Actor", {}).get("Attributes") or {}
    if kind is None:
        return None
    exit_code = attributes.get("exitCode")
    return InstanceEvent(
        kind=kind,
        instance_id=attributes.get(LABEL_INSTANCE),
        agent_id=attributes.get(LABEL_AGENT),
        at=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(said["timeNano"]) // 1000),
        exit_code=int(exit_code) if exit_code is not None else None,
    )


def resource_usage(stats: Mapping[str, Any]) -> ResourceUsage | None:
    """Read the answer to ``GET /containers/{id}/stats``; None where nothing lives that could be measured."""
    memory: Mapping[str, Any] = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details: Mapping[str, int] = memory.get("stats") or {}
    # The kernel's name for page cache it can take back: cgroup v1 with, v2 without the prefix.
    reclaimable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return ResourceUsage(
        memory_bytes=max(0, int(memory["usage"]) - int(reclaimable)),
        memory_limit_bytes=int(memory["limit"]) if memory.get("limit") else None,
        cpu_seconds=int(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9,
        pids=int((stats.get("pids_stats") or {}).get("current", 0)),
        # Only cgroup v1 tells.
        peak_bytes=int(memory["max_usage"]) if memory.get("max_usage") else None,
    )


def held_memory(stats: Mapping[str, Any]) -> int:
    """Read from the same answer the bytes that no kernel can take back: all but the page cache. 0 where nothing lives."""
    memory: Mapping[str, Any] = stats.get("memory_stats") or {}
    details: Mapping[str, int] = memory.get("stats") or {}
    cache = sum(details.get(f"total_{name}", details.get(name, 0)) for name in ("active_file", "inactive_file"))
    return max(0, int(memory.get("usage", 0)) - cache)


def _identity(handle: str, labels: Mapping[str, str]) -> _Identity:
    return _Identity(
        ref=InstanceRef(instance_id=labels.get(LABEL_INSTANCE, ""), handle=handle),
        install_id=labels.get(LABEL_INSTALL, ""),
        agent_id=labels.get(LABEL_AGENT, ""),
        generation=int(labels.get(LABEL_GENERATION, "0")),
        spec_hash=labels.get(LABEL_SPEC, ""),
    )


def _address(container: Mapping[str, Any]) -> str | None:
    networks: Mapping[str, Any] = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return next((network["IPAddress"] for network in networks.values() if network.get("IPAddress")), None)


def _endpoint(container: Mapping[str, Any], address: str | None) -> str | None:
    """Give the published port; an instance that publishes none, on the closed network, is reached by its own address."""
    ports: Mapping[str, Any] = (container.get("NetworkSettings") or {}).get("Ports") or {}
    for binding in ports.get(SERVER_PORT) or ():
        return f"http://{binding['HostIp']}:{binding['HostPort']}"
    publishes = bool((container.get("HostConfig") or {}).get("PortBindings"))
    return f"http://{address}:{SERVER_PORT.partition('/')[0]}" if address and not publishes else None


def _time(text: str | None) -> datetime | None:
    """Read the engine's time; the year 1 stands for "never"."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)
