"""What an agent's instance gets of its host, from the agent's spec and the settings; and what a backend cannot give."""

from __future__ import annotations

from collections.abc import Iterator

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec, Ulimit
from cnap_runner.model.engine import Capabilities
from cnap_runner.model.hardware import Hardware, check_sizes
from cnap_runner.model.instance import Network
from cnap_runner.settings import Settings

ALL_GPUS = -1


def hardware_of(spec: AgentSpec, settings: Settings) -> Hardware:
    """Give an instance's hardware: the agent's own, else that of the settings.

    A quota of the instance's own layer is asked for where the agent names one; it is the hard ceiling, as for the agent's folders.
    """
    wanted = spec.resources
    disk_mb = None if wanted.disk_mb is None else wanted.disk_mb * settings.disk_ceiling_percent // 100
    return Hardware(
        shm_bytes=(wanted.shm_mb or settings.shm_mb) << 20,
        ulimits={name: _pair(value) for name, value in sorted(wanted.ulimits.items())},
        gpus=ALL_GPUS if wanted.gpus == "all" else wanted.gpus,
        devices=wanted.devices,
        disk_bytes=None if disk_mb is None else disk_mb << 20,
    )


def runtime_of(spec: AgentSpec, settings: Settings) -> str | None:
    """Give the OCI runtime by the engine's name: the agent's own, else that of the settings; None: the engine's default."""
    return spec.runtime or settings.runtime


def network_of(spec: AgentSpec) -> Network:
    """Give the network of an agent's egress mode."""
    return Network.OPEN if spec.egress.mode == "open" else Network.CLOSED


def refuse_unable(spec: AgentSpec, settings: Settings, can: Capabilities) -> None:
    """Raise `InvalidInput` for what an agent asks for and the backend can never give, or no host can. Asks no engine."""
    _refuse_impossible(spec, settings)
    if missing := ", ".join(_missing(spec, settings, can)):
        raise InvalidInput(
            f"Agent {spec.agent_id} asks for {missing}, which the {settings.backend} backend does not have.",
            hint="Leave it out, or use the docker backend.",
        )


def _refuse_impossible(spec: AgentSpec, settings: Settings) -> None:
    if spec.image is not None and not spec.image.strip():
        raise InvalidInput(
            f"Agent {spec.agent_id}: image is empty.", hint="Name an image, or leave it out for that of the settings."
        )
    memory_mb = spec.resources.memory_mb or settings.memory_mb
    try:
        check_sizes(hardware_of(spec, settings), memory_bytes=memory_mb << 20)
    except InvalidInput as error:
        raise InvalidInput(f"Agent {spec.agent_id}: {error.message}", hint=error.hint) from error


def _missing(spec: AgentSpec, settings: Settings, can: Capabilities) -> Iterator[str]:
    wanted = spec.resources
    if not can.closes_network and network_of(spec) is Network.CLOSED:
        yield f"egress mode {spec.egress.mode}"
    if not can.has_runtimes and (runtime := runtime_of(spec, settings)) is not None:
        yield f"the OCI runtime {runtime}"
    if not can.has_images and spec.image is not None:
        yield "an image of its own"
    if not can.grants_hardware:
        named = {"shm_mb": wanted.shm_mb, "ulimits": wanted.ulimits, "gpus": wanted.gpus, "devices": wanted.devices}
        yield from (f"resources.{name}" for name, value in named.items() if value)


def _pair(value: Ulimit) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
