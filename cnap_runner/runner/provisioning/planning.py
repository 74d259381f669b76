"""What an agent's instance should be like, worked out from its spec before anything is created or changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio.to_thread

from cnap_runner.egress.rules import Rule
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.answers import Permissions
from cnap_runner.model.ids import new_id
from cnap_runner.model.instance import InstanceSpec, Layout, Limits, Network
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.checking import check_run_model, check_settings
from cnap_runner.runner.provisioning.configuration import configuration, layered
from cnap_runner.runner.provisioning.hardware import network_of
from cnap_runner.runner.provisioning.permissions import permissions_of
from cnap_runner.runner.provisioning.rendering import (
    Provision,
    environment,
    instance_spec,
    limits_of,
    provision,
    settings_hash,
    spec_hash,
)
from cnap_runner.runner.reach import check_egress, rules_of
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.runner.workspaces.folders import AgentFolders

ANYWHERE = Layout(workspace="workspace", state="state", home="home", settings="settings", secrets="secrets")
"""Stands for every layout where only the text of settings counts: where a backend puts things is no change."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an instance of an agent should be: compared with what is recorded of the one it has."""

    spec_hash: str
    settings_hash: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a start needs, worked out before anything is created."""

    wanted: InstanceSpec
    given: Provision
    settings_hash: str
    rules: tuple[Rule, ...] = ()
    """What it may reach, on the closed network."""


class Planner:
    """Works out plans for the agents of one install. Changes nothing."""

    def __init__(self, install: Install, template: Mapping[str, Any]) -> None:
        self._install = install
        self._template = template
        self._targets: dict[str, tuple[AgentSpec, Target]] = {}
        """The latest of each agent, with the very spec it was worked out from: the store gives the same one until it changes."""

    def target(self, spec: AgentSpec) -> Target:
        """Tell what the agent's instance should be like. Resolves nothing; quick, since each turn begins with it."""
        spec_seen, target = self._targets.get(spec.agent_id, (None, None))
        if spec_seen is not spec or target is None:
            settings = self._install.settings
            hashed = settings_hash(spec, template=self._template, layout=ANYWHERE, settings=settings)
            target = Target(self._wanted(spec, "i", 1).spec_hash, hashed, limits_of(spec, settings))
            self._targets[spec.agent_id] = (spec, target)
        return target

    def configuration(self, spec: AgentSpec) -> dict[str, Any]:
        """Give the agent's merged configuration, unresolved."""
        return configuration(spec, template=self._template, settings=self._install.settings, layout=ANYWHERE)

    def permissions(self, spec: AgentSpec, *, instance_id: str) -> Permissions:
        """Tell what decides about the permissions that the agent raises in an instance."""
        layout = self._install.backend.layout(self._wanted(spec, instance_id, 1))
        config = layered(spec, template=self._template, settings=self._install.settings, layout=layout)
        return permissions_of(config, spec.answers, home=layout.home)

    def check(self, spec: AgentSpec) -> None:
        """Raise `InvalidInput` for settings that are known to be wrong."""
        config = self.configuration(spec)
        check_settings(spec, config)
        check_egress(spec, config)

    def check_model(self, spec: AgentSpec, model: str | None) -> None:
        """Raise `InvalidInput` for a run's own model that certainly is not the agent's to use."""
        if model is not None and model != spec.model:
            check_run_model(spec, model, self.configuration(spec))

    async def plan(self, spec: AgentSpec, *, generation: int) -> Plan:
        """Work out a new instance. Raises `InvalidInput` for what cannot work, such as a variable without a value."""
        wanted = self._wanted(spec, new_id("i"), generation)
        given = await self._provision(spec, wanted)
        return Plan(wanted, given, self.target(spec).settings_hash, await self.rules(spec))

    async def render(self, spec: AgentSpec, *, instance_id: str, generation: int) -> tuple[Provision, Layout]:
        """Render the settings anew for an instance that runs. Raises `SecretUnavailable` and its like."""
        wanted = self._wanted(spec, instance_id, generation)
        return await self._provision(spec, wanted), self._install.backend.layout(wanted)

    async def rules(self, spec: AgentSpec) -> tuple[Rule, ...]:
        """Work out what an agent on the closed network may reach; none are needed on the open one. Raises as `plan` does."""
        if network_of(spec) is Network.OPEN:
            return ()
        resolver = Resolver(spec, self._install.secrets, os.environ, self._install.settings.env_allow)
        return await anyio.to_thread.run_sync(partial(rules_of, spec, self.configuration(spec), value=resolver.value))

    def _wanted(self, spec: AgentSpec, instance_id: str, generation: int) -> InstanceSpec:
        install = self._install
        wanted = instance_spec(
            spec,
            install_id=install.install_id,
            instance_id=instance_id,
            generation=generation,
            settings=install.settings,
            volumes=AgentFolders(install.settings.data_dir, spec.agent_id).volumes(),
        )
        layout = install.backend.layout(wanted)
        wanted = replace(wanted, environment=environment(spec, layout=layout, settings=install.settings))
        return replace(wanted, spec_hash=spec_hash(wanted))

    async def _provision(self, spec: AgentSpec, wanted: InstanceSpec) -> Provision:
        install = self._install
        layout = install.backend.layout(wanted)
        resolver = Resolver(spec, install.secrets, os.environ, install.settings.env_allow)

        def resolve() -> Provision:
            return provision(spec, template=self._template, layout=layout, settings=install.settings, resolver=resolver)

        given = await anyio.to_thread.run_sync(resolve)
        install.redactor.add(*given.secrets.values())
        return given
