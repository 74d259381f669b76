"""What a backend is asked for (`InstanceSpec`) and what it reports (`Observation`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cnap_runner.model.hardware import Hardware
from cnap_runner.model.kit import Kit

LABEL_MANAGED = "cnap.runner.managed"
LABEL_INSTALL = "cnap.runner.install"
LABEL_AGENT = "cnap.agent.id"
LABEL_INSTANCE = "cnap.runner.instance"
LABEL_GENERATION = "cnap.runner.generation"
LABEL_OPENCODE = "cnap.image.opencode"
"""On an image of ours: the version of OpenCode in it."""
LABEL_SPEC = "cnap.runner.spec"
LABEL_NETWORK = "cnap.runner.network"
"""Which of an install's networks one is (see `Network`)."""


class VolumeRole(StrEnum):
    """What a volume is for; a backend decides where it appears inside (see `Layout`)."""

    WORKSPACE = "workspace"
    STATE = "state"
    HOME = "home"
    SETTINGS = "settings"


@dataclass(frozen=True, slots=True)
class Volume:
    """One folder of an agent, as an instance sees it."""

    role: VolumeRole
    source: Path
    """Where it lies on the manager's side; absolute."""
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, as seen from inside an instance. Rendered settings refer to these paths."""

    workspace: str
    state: str
    """OpenCode keeps its sessions in ``opencode/`` below it (it is ``XDG_DATA_HOME``)."""
    home: str
    settings: str
    secrets: str
    """Held in memory, readable by the agent's user alone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an instance may use at most."""

    memory_bytes: int
    """Swap included."""
    cpus: float
    pids: int


class Network(StrEnum):
    """Which of an install's two networks an instance is on."""

    OPEN = "open"
    """Reaches the world and the host."""
    CLOSED = "closed"
    """Reaches nothing but the install's proxy."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """One of an install's networks as the host sees it: what a proxy listens on and a packet filter names."""

    id: str
    """The engine's own name for it."""
    interface: str
    """The host's bridge (``br-0123456789ab``)."""
    gateway: str
    """The host's address on it."""
    subnet: str
    """Its addresses (``172.18.0.0/16``)."""
    is_internal: bool
    """Nothing is routed out of it."""


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One instance to be created. Nothing in it is secret."""

    install_id: str
    agent_id: str
    instance_id: str
    """Unique for ever; the new instance's identity."""
    generation: int
    """Counts the instances of one agent upwards from 1."""
    spec_hash: str
    """Hash of what only a new instance can change."""
    image: str
    limits: Limits
    volumes: tuple[Volume, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """The user's own; the backend adds those of `identity_labels`."""
    network: Network = Network.OPEN
    hardware: Hardware = field(default_factory=Hardware)
    runtime: str | None = None
    """An OCI runtime by the engine's name for it; None: its default."""
    kit: Kit | None = None
    """What is brought into an image that is not ours; None: the image has OpenCode and starts it."""

    def identity_labels(self) -> dict[str, str]:
        """Labels that say whose instance this is. Only instances with the own install id are ever touched."""
        return {
            LABEL_MANAGED: "true",
            LABEL_INSTALL: self.install_id,
            LABEL_AGENT: self.agent_id,
            LABEL_INSTANCE: self.instance_id,
            LABEL_GENERATION: str(self.generation),
            LABEL_SPEC: self.spec_hash,
        }


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """How to find an instance again, from any process."""

    instance_id: str
    handle: str
    """The backend's own name for it: a container's id, a process's folder, a pod's name."""


class InstanceStatus(StrEnum):
    """What an instance is doing, as its backend sees it."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Observation:
    """What a backend reports of one instance."""

    ref: InstanceRef
    install_id: str
    agent_id: str
    generation: int
    spec_hash: str
    status: InstanceStatus
    address: str | None = None
    """The instance's own address on its network while running, where it has one."""
    endpoint: str | None = None
    """Base URL of the OpenCode server while running, as this manager can reach it (``http://127.0.0.1:32768``). It changes
    with each start."""
    exit_code: int | None = None
    is_oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_live(self) -> bool:
        """Whether its processes exist, paused or not."""
        return self.status in {InstanceStatus.RUNNING, InstanceStatus.PAUSED}


class InstanceEventKind(StrEnum):
    """What happened to an instance."""

    STARTED = "started"
    DIED = "died"
    OOM = "oom"
    PAUSED = "paused"
    RESUMED = "resumed"
    REMOVED = "removed"
    CONNECTED = "connected"
    """Not about an instance: the watch (re)connected, and something may have been missed before. `ref` is None."""


@dataclass(frozen=True, slots=True)
class InstanceEvent:
    """One event of the backend's watch."""

    kind: InstanceEventKind
    instance_id: str | None
    agent_id: str | None
    at: datetime
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of an instance's output, without its line end."""

    stream: str
    """``stdout`` or ``stderr``; ``cnap-runner`` for what this package says about the output, such as that lines are missing."""
    text: str
    at: datetime | None = None
    instance_id: str | None = None
    """Where it was collected: the instance that wrote it."""
    run_id: str | None = None
    """The agent's run at that time, where there was one."""


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What an instance uses now."""

    memory_bytes: int
    """Without the page cache that the kernel can take back."""
    memory_limit_bytes: int | None
    cpu_seconds: float
    """Used since its start."""
    pids: int
    peak_bytes: int | None = None
    """The most memory that it had since its start, page cache included; None: not known."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command inside an instance ended."""

    exit_code: int
    output: bytes
    """Standard output and error, in the order they came, at most `truncated_at` bytes."""
    is_truncated: bool = False
