"""The contract of `backends.base`, kept by a Docker Engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio.to_thread
from docker import APIClient

from cnap_runner.backends.base import Backend, OnAddress
from cnap_runner.backends.docker.address import engine_address
from cnap_runner.backends.docker.delivery import deliver
from cnap_runner.backends.docker.ending import exited, remove_container, stop_container
from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.facts import AGENT_ID, EngineFacts, engine_facts
from cnap_runner.backends.docker.finding import find, observe_all
from cnap_runner.backends.docker.freezing import freeze, thaw
from cnap_runner.backends.docker.hardware import hardware_options
from cnap_runner.backends.docker.launch import start_with_input
from cnap_runner.backends.docker.networks import InstallNetworks
from cnap_runner.backends.docker.options import LAYOUT, container_config, container_name, limit_options
from cnap_runner.backends.docker.output import log_lines, run_command
from cnap_runner.backends.docker.reports import held_memory, observation, resource_usage
from cnap_runner.backends.docker.trouble import EngineRefusal, translated
from cnap_runner.backends.docker.watch import watch
from cnap_runner.errors import InstanceExited, InstanceStartFailed, InsufficientResources, InvalidInput
from cnap_runner.model.engine import Capabilities, EngineInfo
from cnap_runner.model.instance import (
    LABEL_OPENCODE,
    ExecResult,
    InstanceEvent,
    InstanceRef,
    InstanceSpec,
    Layout,
    Limits,
    LogLine,
    Network,
    NetworkFacts,
    Observation,
    ResourceUsage,
)

_NOT_FOUND = 404
_CONFLICT = 409
CAPABILITIES = Capabilities(
    has_images=True,
    isolates_files=True,
    isolates_network=True,
    isolates_processes=True,
    limits_memory=True,
    limits_cpu=True,
    limits_pids=True,
    can_pause=True,
    closes_network=True,
    has_runtimes=True,
    grants_hardware=True,
    survives_manager=True,
)


class DockerBackend(Backend):
    """One container per instance. Nothing is asked of the engine before the first verb.

    ``docker_host`` is an engine's address; None: that of ``DOCKER_HOST``, else the default socket. Raises `InvalidInput` for an
    address that cannot be used.
    """

    def __init__(self, *, docker_host: str | None = None) -> None:
        self._address = engine_address(docker_host)
        self._engine = Engine(self._address)
        self._networks = InstallNetworks(self._engine)
        self._facts: EngineFacts | None = None

    @property
    def capabilities(self) -> Capabilities:
        """All of them. An engine that keeps no limits is found by `check`, and refused by `create`."""
        return CAPABILITIES

    def layout(self, spec: InstanceSpec) -> Layout:  # noqa: ARG002 - part of the contract
        """Give the same places for every container."""
        return LAYOUT

    def file_owner(self) -> tuple[int, int] | None:
        """Give the agent's own uid where the manager is root; whether the engine is rootless is known after `check` or `prepare`."""
        if os.geteuid() != 0 or (self._facts is not None and self._facts.is_rootless):
            return None
        return (AGENT_ID, AGENT_ID)

    async def check(self) -> EngineInfo:
        """Ask the engine who it is, anew each time."""
        self._facts = None
        return (await self._known_facts()).engine_info(self._address)

    async def prepare(self, install_id: str) -> None:
        """Make the install's open network where there is none; the closed one is made when it is first needed."""
        await self._known_facts()
        self._networks.forget(install_id)
        await self._networks.of(install_id, Network.OPEN)

    async def open_network(self, install_id: str) -> NetworkFacts | None:
        """Give the bridge that reaches the world."""
        return await self._networks.of(install_id, Network.OPEN)

    async def closed_network(self, install_id: str) -> NetworkFacts | None:
        """Give the internal bridge; None also where this manager could not reach instances on it (see `EngineFacts`)."""
        if (await self._known_facts()).why_not_closed is not None:
            return None
        return await self._networks.still(install_id, Network.CLOSED)

    async def opencode_version(self, image: str) -> str | None:
        """Read the image's label."""
        with translated(f"Looking at image {image} failed"):
            try:
                found: dict[str, Any] = await self._engine.ask(lambda sdk: sdk.inspect_image(image))  # type: ignore[no-untyped-call]
            except EngineRefusal as refusal:
                if refusal.status != _NOT_FOUND:
                    raise
                return None
        version: str | None = (found["Config"].get("Labels") or {}).get(LABEL_OPENCODE)
        return version

    async def create(self, spec: InstanceSpec) -> InstanceRef:
        """Create a container; one of the same instance that is there is returned instead."""
        facts = await self._known_facts()
        if spec.network is Network.CLOSED and facts.why_not_closed is not None:
            raise InvalidInput(f"Agent {spec.agent_id} cannot have a closed network: {facts.why_not_closed}")
        hardware = await anyio.to_thread.run_sync(hardware_options, spec, facts, self._address)
        config = container_config(
            spec,
            limits=facts.fit(spec.limits),
            network=await self._networks.of(spec.install_id, spec.network),
            user=facts.user(uid=os.geteuid(), gid=os.getegid()),
            hardware=hardware,
        )
        with translated(f"Creating an instance of {spec.agent_id} failed", otherwise=InstanceStartFailed):
            try:
                handle = await self._engine.ask(partial(_create_container, name=container_name(spec), config=config))
                return InstanceRef(instance_id=spec.instance_id, handle=handle)
            except EngineRefusal as refusal:
                existing = await find(self._engine, spec) if refusal.status == _CONFLICT else None
                if existing is None:
                    raise
                return existing

    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:
        """Start a container, hand it its secrets, and read back the port that the engine allocated."""

        async def tell_address() -> None:
            if on_address is not None and (address := (await self.inspect(ref)).address) is not None:
                await on_address(address)

        with translated(f"Starting {ref.instance_id} failed", otherwise=InstanceStartFailed):
            try:
                await start_with_input(self._engine, ref.handle, secrets, on_started=tell_address)
            except EngineRefusal as refusal:
                if "network" in refusal.message.lower():
                    self._networks.forget()  # somebody may have pruned it; the next create makes it again
                raise
        seen = await self.inspect(ref)
        if not seen.is_live:
            raise await exited(self._engine, seen)
        if seen.endpoint is None:
            raise InstanceStartFailed(f"The engine published no port for {ref.instance_id}.")
        return seen.endpoint

    async def deliver(self, ref: InstanceRef, *, secrets: bytes) -> None:
        """Run a command in the container that takes the archive by standard input."""
        with translated(f"Handing new secrets to {ref.instance_id} failed"):
            container = await self._engine.ask(lambda sdk: sdk.inspect_container(ref.handle))
            await deliver(self._engine, container, secrets)

    async def update_limits(self, ref: InstanceRef, limits: Limits) -> None:
        """Change the container's limits. A kernel that is told less memory than is held would end something instead (cgroup v2)."""
        fitting = (await self._known_facts()).fit(limits)
        held = held_memory(await self._statistics(ref))
        if held > limits.memory_bytes:
            raise InsufficientResources(
                f"{ref.instance_id} holds {held >> 20} MiB of memory, more than the new limit of {limits.memory_bytes >> 20} MiB.",
                hint="Give it more, or stop the agent: its next start has the new limit.",
            )
        with translated(f"Changing the limits of {ref.instance_id} failed"):
            await self._engine.post(f"/containers/{ref.handle}/update", body=limit_options(fitting))

    async def stop(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End a container. The engine thaws a paused one itself."""
        with translated(f"Stopping {ref.instance_id} failed"):
            await stop_container(self._engine, ref, grace=grace)

    async def remove(self, ref: InstanceRef, *, grace: timedelta) -> None:
        """End and remove a container, with the anonymous volumes its image may have asked for; folders are never touched."""
        await self.stop(ref, grace=grace)
        with translated(f"Removing {ref.instance_id} failed"):
            await remove_container(self._engine, ref)

    async def pause(self, ref: InstanceRef) -> None:
        """Freeze a container."""
        await freeze(self._engine, ref)

    async def resume(self, ref: InstanceRef) -> None:
        """Thaw a container."""
        await thaw(self._engine, ref)

    async def inspect(self, ref: InstanceRef) -> Observation:
        """Report one container."""
        with translated(f"Looking at {ref.instance_id} failed"):
            return observation(await self._engine.ask(lambda sdk: sdk.inspect_container(ref.handle)))

    async def list_instances(self, install_id: str) -> list[Observation]:
        """Report all containers that carry the install's label, without their times; one removed meanwhile is left out."""
        with translated("Listing instances failed"):
            return await observe_all(self._engine, install_id)

    def events(self, install_id: str) -> AbstractAsyncContextManager[AsyncIterator[InstanceEvent]]:
        """Watch the install's containers."""
        return watch(self._engine, install_id)

    async def logs(
        self, ref: InstanceRef, *, tail: int | None = None, since: datetime | None = None, is_following: bool = False
    ) -> AsyncIterator[LogLine]:
        """Yield a container's output, as far back as the engine's rotation kept it (three files of 10 MB)."""
        with translated(f"Reading the output of {ref.instance_id} failed"):
            found = log_lines(self._engine, ref.handle, tail=tail, since=since, is_following=is_following)
            async with aclosing(found) as lines:
                async for line in lines:
                    yield line

    async def usage(self, ref: InstanceRef) -> ResourceUsage:
        """Measure a container once. Engines before API 1.41 take two seconds for it."""
        used = resource_usage(await self._statistics(ref))
        if used is None:
            raise InstanceExited(f"{ref.instance_id} is not running, so there is nothing to measure.")
        return used

    async def exec(self, ref: InstanceRef, argv: Sequence[str], *, timeout: timedelta) -> ExecResult:
        """Run one command in a container."""
        if not argv:
            raise InvalidInput("There is no command to run.")
        with translated(f"Running a command in {ref.instance_id} failed"):
            return await run_command(self._engine, ref.handle, argv, timeout=timeout)

    def shell_command(self, ref: InstanceRef, argv: Sequence[str]) -> list[str]:
        """Give a call of Docker's own command line, on this backend's engine."""
        host = ["-H", self._address.host]
        return ["docker", *host, "exec", "-it", "-w", LAYOUT.workspace, ref.handle, *argv]

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._engine.aclose()

    async def purge(self, install_id: str) -> None:
        """Remove the install's networks."""
        await self._networks.remove(install_id)

    async def _known_facts(self) -> EngineFacts:
        if self._facts is None:
            with translated("Asking the engine about itself failed"):
                info: dict[str, Any] = await self._engine.ask(lambda sdk: sdk.info())
            self._facts = engine_facts(info, api_version=await self._engine.api_version())
        return self._facts

    async def _statistics(self, ref: InstanceRef) -> dict[str, Any]:
        params = {"stream": "false", "one-shot": "true"}
        with translated(f"Measuring {ref.instance_id} failed"):
            async with self._engine.stream("GET", f"/containers/{ref.handle}/stats", params=params) as response:
                await response.aread()
        # Of one that ends in this moment an engine says nothing at all.
        said: dict[str, Any] = response.json() if response.content.strip() else {}
        return said


def _create_container(sdk: APIClient, *, name: str, config: dict[str, Any]) -> str:
    made: dict[str, Any] = sdk.create_container_from_config(config, name)  # type: ignore[no-untyped-call]
    return str(made["Id"])
