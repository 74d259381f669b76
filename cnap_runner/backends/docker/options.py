"""What the engine is asked to create for one instance (DESIGN §6), as the body of ``POST /containers/create``."""

from __future__ import annotations

from typing import Any

from cnap_runner.backends.docker.kit import bring_kit
from cnap_runner.model.instance import InstanceSpec, Layout, Limits, NetworkFacts, Volume, VolumeRole

SERVER_PORT = "4096/tcp"
LAYOUT = Layout(
    workspace="/workspace",
    state="/agent/state",
    home="/agent/home",
    settings="/agent/settings",
    secrets="/run/secrets",
)

_TARGETS = {
    VolumeRole.WORKSPACE: LAYOUT.workspace,
    VolumeRole.STATE: LAYOUT.state,
    VolumeRole.HOME: LAYOUT.home,
    VolumeRole.SETTINGS: LAYOUT.settings,
}
_TMP_SHARE = 4
"""What is written to /tmp counts as the agent's memory; at most one part in so many of its limit."""


def container_name(spec: InstanceSpec) -> str:
    """Give a name that people can read. Nothing is ever found by it: labels say whose a container is."""
    return f"cnap-{spec.install_id}-{spec.agent_id}-{spec.generation}"


def container_config(
    spec: InstanceSpec, *, limits: Limits, network: NetworkFacts, user: tuple[int, int]
) -> dict[str, Any]:
    """Decide all create options. ``limits`` are those of the spec as far as the host has them."""
    config = {
        "Image": spec.image,
        "User": f"{user[0]}:{user[1]}",
        "WorkingDir": LAYOUT.workspace,
        "Env": [f"{name}={value}" for name, value in _environment(spec).items()],
        "Labels": {**spec.labels, **spec.identity_labels()},
        "ExposedPorts": {SERVER_PORT: {}},
        # Secrets come by standard input, which the engine closes when the first writer leaves.
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        # The manager asks for readiness itself; a probe in each container would burn CPU while the agent is idle.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(spec, limits=limits, network=network, user=user),
    }
    return config if spec.kit is None else bring_kit(config, spec.kit, memory_bytes=limits.memory_bytes, user=user)


def limit_options(limits: Limits) -> dict[str, int]:
    """Give the options for limits, for creation and for ``POST /containers/{id}/update`` alike. Swap is within the memory's limit."""
    return {
        "PidsLimit": limits.pids,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": round(limits.cpus * 1e9),
    }


def _host_config(spec: InstanceSpec, *, limits: Limits, network: NetworkFacts, user: tuple[int, int]) -> dict[str, Any]:
    return {
        "Init": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        **limit_options(limits),
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Tmpfs": _tmpfs(limits, user=user),
        "Mounts": [_mount(volume) for volume in spec.volumes],
        **_network_options(network),
        "RestartPolicy": {"Name": "no"},
    }


def _network_options(network: NetworkFacts) -> dict[str, Any]:
    if network.is_internal:
        # The engine's own resolver would ask the host's, from the host: names would be a way out. It is told to ask where
        # nobody answers; the proxy resolves names itself.
        return {"NetworkMode": network.id, "Dns": [network.gateway]}
    return {
        "NetworkMode": network.id,
        # Without a host port the engine allocates one, anew at each start (FAILURES row 1).
        "PortBindings": {SERVER_PORT: [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        "ExtraHosts": ["host.docker.internal:host-gateway"],
    }


def _environment(spec: InstanceSpec) -> dict[str, str]:
    return {
        **spec.environment,
        "HOME": LAYOUT.home,
        "XDG_CACHE_HOME": f"{LAYOUT.home}/.cache",
        "XDG_DATA_HOME": LAYOUT.state,
        "CNAP_SECRETS": "stdin",
    }


def _tmpfs(limits: Limits, *, user: tuple[int, int]) -> dict[str, str]:
    uid, gid = user
    return {
        # Room for two sets: a new one is laid down beside the old one.
        LAYOUT.secrets: f"rw,noexec,nosuid,nodev,uid={uid},gid={gid},mode=0700,size=8m",
        # Builds run programs from here, hence exec.
        "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={limits.memory_bytes // _TMP_SHARE}",  # noqa: S108 - inside
    }


def _mount(volume: Volume) -> dict[str, Any]:
    """A mount, unlike a bind, is refused where its source is missing; a bind would make a folder that belongs to root."""
    return {
        "Type": "bind",
        "Source": str(volume.source),
        "Target": _TARGETS[volume.role],
        "ReadOnly": volume.is_read_only or volume.role is VolumeRole.SETTINGS,
    }
