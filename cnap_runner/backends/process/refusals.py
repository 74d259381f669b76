"""What a spec may ask for that only a container can have."""

from __future__ import annotations

from collections.abc import Iterator

from cnap_runner.errors import InvalidInput
from cnap_runner.model.hardware import Hardware
from cnap_runner.model.instance import InstanceSpec, Network


def refuse_containers_own(spec: InstanceSpec) -> None:
    """Raise `InvalidInput` that names what this backend cannot do. Limits are not refused: ``check`` says that none are applied."""
    if wanted := ", ".join(_wanted(spec)):
        raise InvalidInput(
            f"Agent {spec.agent_id} asks for {wanted}, which the process backend does not have.",
            hint="Leave it out, or use the docker backend.",
        )


def _wanted(spec: InstanceSpec) -> Iterator[str]:
    if spec.network is Network.CLOSED:
        yield "a closed network (egress mode none or allowlist)"
    if spec.runtime is not None:
        yield f"the OCI runtime {spec.runtime}"
    if spec.kit is not None:
        yield "an image of its own"
    yield from _wanted_hardware(spec.hardware)


def _wanted_hardware(hardware: Hardware) -> Iterator[str]:
    if hardware.ulimits:
        yield "ulimits"
    if hardware.gpus is not None:
        yield "GPUs"
    if hardware.devices:
        yield "devices"
