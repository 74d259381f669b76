"""The secrets of instances that somebody else started, so that this manager redacts them too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread

from cnap_runner.errors import InvalidInput, RunnerNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.configuration import CATALOGUE_KEYS, providers_of
from cnap_runner.runner.provisioning.planning import Planner
from cnap_runner.runner.secrecy.finding import PLACEHOLDER, without_secrets
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.store.base import AgentRow

FORGET_EVERY = timedelta(minutes=10)


class KnownSecrets:
    """Teaches the redactor what the agents of an install use, as far as this process can read it.

    Whoever starts an instance knows its values anyway. A keyring is not asked: it may ask its user, who wants to use what runs.
    """

    def __init__(self, install: Install, planner: Planner) -> None:
        self._install = install
        self._planner = planner
        self._learned: dict[str, tuple[AgentSpec, str | None, tuple[int | None, ...]]] = {}
        """The spec and instance of each agent whose secrets are known, and when those were changed last."""
        self._instances: dict[str, tuple[str, ...]] = {}
        """The latest two of each agent: the last words of one are read when the next one is recorded already."""

    async def learn(self, agent_id: str) -> None:
        """Learn an agent's secrets and its server's password. What cannot be read, or an unknown agent, is no error."""
        with suppress(RunnerNotFound):
            await self.keep_up(await self._install.store.get_agent(agent_id))

    async def forget_deleted(self) -> None:
        """Forget the servers' passwords of agents that were deleted, whoever did it; now and then, until cancelled."""
        while True:
            await anyio.sleep(FORGET_EVERY.total_seconds())
            known = self._learned.keys() | self._instances.keys()
            there = {record.agent_id for record in await self._install.store.list_runners(tuple(RunnerStatus))}
            for agent_id in known - there:
                self._learned.pop(agent_id, None)
                self._forget(self._instances.pop(agent_id, ()))

    async def keep_up(self, row: AgentRow) -> None:
        """Learn what changed, as `learn`. Quick where nothing did, since each turn begins with it: somebody else may have rotated them."""
        install, spec, instance_id = self._install, row.spec, row.runner.instance_id
        seen = spec, instance_id, await self._stamps(spec)
        if self._learned.get(spec.agent_id) == seen:
            return
        if instance_id is not None:
            self._know(spec.agent_id, instance_id)
        config = self._planner.configuration(spec)
        install.redactor.add(*await anyio.to_thread.run_sync(_readable_values, spec, config, install))
        self._learned[spec.agent_id] = seen

    def _know(self, agent_id: str, instance_id: str) -> None:
        """Another manager may end and remove what this one learned of, so what is older than the latest two is forgotten here."""
        self._install.redactor.add(self._install.password_of(instance_id))
        known = self._instances.get(agent_id, ())
        if instance_id not in known:
            self._instances[agent_id] = (*known[-1:], instance_id)
            self._forget(known[:-1])

    def _forget(self, instances: Iterable[str]) -> None:
        self._install.redactor.remove(*map(self._install.password_of, instances))

    async def _stamps(self, spec: AgentSpec) -> tuple[int | None, ...]:
        references = [reference for reference in spec.secrets.values() if reference.startswith(("vault:", "file:"))]
        if not references:
            return ()
        stamp = self._install.secrets.stamp
        return await anyio.to_thread.run_sync(lambda: tuple(map(stamp, references)))


def names_used(spec: AgentSpec, config: Mapping[str, Any]) -> set[str]:
    """Name all that an agent's settings may stand for: its secrets, what ``${NAME}`` names, its providers' usual keys."""
    named = PLACEHOLDER.findall(json.dumps(config) + (spec.workspace.git or ""))
    usual = [name for provider in providers_of(config, spec) for name in CATALOGUE_KEYS.get(provider, ())]
    return {*spec.secrets, *named, *usual}


def _readable_values(spec: AgentSpec, config: Mapping[str, Any], install: Install) -> list[str]:
    resolver = Resolver(spec, install.secrets, os.environ, install.settings.env_allow)
    values: list[str] = []

    def note(value: str, _: tuple[str, ...]) -> str:
        values.append(value)
        return value

    without_secrets(config, ("opencode",), note)  # those of the install's own settings
    for name in sorted(names_used(spec, config)):
        if not spec.secrets.get(name, "").startswith("keyring:"):
            with suppress(InvalidInput):
                values.append(resolver.value(name))
    return values
