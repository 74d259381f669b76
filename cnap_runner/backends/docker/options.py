"""What the engine is asked to create for one instance (DESIGN §6), as the body of ``POST /containers/create``."""

from __future__ import annotations

from collections.abc import Mapping
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
KIT_FOLDER = "/usr/local/lib/cnap"
"""Where a kit is seen inside an image that is not ours; its ``busybox`` is all the tools that are needed here."""

_OOM_SCORE = 500
_TMP_SHARE = 4
"""What is written to /tmp counts as the agent's memory; at most one part in so many of its limit."""


def container_name(spec: InstanceSpec) -> str:
    """Give a name that people can read. Nothing is ever found by it: labels say whose a container is."""
    return f"cnap-{spec.install_id}-{spec.agent_id}-{spec.generation}"


def container_config(
    spec: InstanceSpec,
    *,
    limits: Limits,
    network: NetworkFacts,
    user: tuple[int, int],
    hardware: Mapping[str, Any],
) -> dict[str, Any]:
    """Decide all create options.

    ``limits`` are those of the spec as far as the host has them, ``hardware`` is the part of ``HostConfig`` that
    `hardware_options` gave. What is not said here is the engine's default, on purpose: its seccomp profile, its masked and
    read-only paths of ``/proc``, its namespaces of processes, mounts and host name.
    """
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
        "HostConfig": {**_host_config(spec, limits=limits, network=network, user=user), **hardware},
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
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        # An engine may be set up to share these by default; shared memory and the host's cgroups are nobody else's business.
        "IpcMode": "private",
        "CgroupnsMode": "private",
        **limit_options(limits),
        # When the whole host runs out of memory, an agent goes before its manager and the engine.
        "OomScoreAdj": _OOM_SCORE,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Tmpfs": _tmpfs(limits, user=user),
        "Mounts": [_mount(volume) for volume in spec.volumes],
        **_network_options(network),
        "RestartPolicy": {"Name": "no"},
    }


def _network_options(network: NetworkFacts) -> dict[str, Any]:
    if network.is_internal:
        # The engine resolves names for its containers, and would ask the host's resolver from the host: a way out (moby
        # CVE-2024-29018). It is told to ask inside of the container, where nobody answers, and whoever asks to give up after a
        # second instead of 20; the proxy resolves names itself.
        return {"NetworkMode": network.id, "Dns": ["127.0.0.1"], "DnsOptions": ["timeout:1", "attempts:1"]}
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
