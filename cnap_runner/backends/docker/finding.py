"""Finding an install's containers, by their labels alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from docker import APIClient

from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.reports import listed, observation
from cnap_runner.backends.docker.trouble import EngineRefusal
from cnap_runner.model.instance import (
    LABEL_INSTALL,
    LABEL_INSTANCE,
    LABEL_MANAGED,
    InstanceRef,
    InstanceSpec,
    Observation,
)

_NOT_FOUND = 404


async def find(engine: Engine, spec: InstanceSpec) -> InstanceRef | None:
    """Find the container of an instance. Raises `EngineRefusal`."""
    found = await _labelled(engine, f"{LABEL_INSTALL}={spec.install_id}", f"{LABEL_INSTANCE}={spec.instance_id}")
    return InstanceRef(instance_id=spec.instance_id, handle=found[0]["Id"]) if found else None


async def observe_all(engine: Engine, install_id: str) -> list[Observation]:
    """Report all containers of an install, ended ones too; one removed meanwhile is left out. Raises `EngineRefusal`.

    One question for all of them: an install may have a thousand, and each question costs milliseconds.
    """
    entries = await _labelled(engine, f"{LABEL_INSTALL}={install_id}")
    found = [listed(entry) or await _inspected(engine, entry["Id"]) for entry in entries]
    return [seen for seen in found if seen is not None]


async def _inspected(engine: Engine, handle: str) -> Observation | None:
    try:
        return observation(await engine.ask(partial(APIClient.inspect_container, container=handle)))
    except EngineRefusal as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return None


async def _labelled(engine: Engine, *labels: str) -> list[dict[str, Any]]:
    filters = {"label": [f"{LABEL_MANAGED}=true", *labels]}
    listed: list[dict[str, Any]] = await engine.ask(partial(APIClient.containers, all=True, filters=filters))
    return listed
