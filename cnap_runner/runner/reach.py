"""What each agent may reach, and that nothing else is reached: the runner's side of `cnap_runner.egress`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from cnap_runner.egress.addresses import why_refused
from cnap_runner.egress.providers import PROVIDER_HOSTS
from cnap_runner.egress.rulebook import Entry
from cnap_runner.egress.rules import HOST_ALIAS, Rule, as_address, parse_rule
from cnap_runner.errors import InvalidInput, RunnerError
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import InstanceRef, InstanceSpec, Network
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.configuration import mapping, providers_of
from cnap_runner.runner.provisioning.hardware import network_of
from cnap_runner.telemetry.logging import get_logger

_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NOT_PROXIED = "localhost,127.0.0.1,::1"
WATCH_SECONDS = 5.0
LOOKS_PER_FILTER = 12
"""Looks at the proxy for each one at the filter, which starts programs."""
_DEFAULT_PORTS = {"http": 80, "https": 443}

_log = get_logger(__name__)

Value = Callable[[str], str]
"""Gives the value of a ``${NAME}``; raises `SecretUnavailable`."""


def check_rule(spec: AgentSpec, text: str) -> None:
    """Raise `InvalidInput` for a rule of an agent that cannot be read, or of what nobody reaches."""
    address = as_address(parse_rule(text).host)
    if address is not None and (why := why_refused(address, may_be_private=True)) is not None:
        raise InvalidInput(
            f"Agent {spec.agent_id}: egress.allow names {text}, which nobody reaches: {why}.",
            hint=f"Leave it out. What listens on the host is {HOST_ALIAS}.",
        )


def check_egress(spec: AgentSpec, config: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for rules that cannot be read or kept, and for a provider that mode ``none`` would cut off. Resolves nothing."""
    for text in spec.egress.allow:
        check_rule(spec, text)
    if network_of(spec) is Network.CLOSED:
        for _ in _usual_hosts(spec, config):
            pass
        for url in _urls(config):
            if not _PLACEHOLDER.search(url):
                _endpoint(url)


def rules_of(spec: AgentSpec, config: Mapping[str, Any], *, value: Value) -> tuple[Rule, ...]:
    """Give what an agent on the closed network may reach. ``config`` is its OpenCode configuration, unresolved.

    That is its own list, the hosts of its model providers, and its remote MCP servers. Raises `InvalidInput` where a provider's host is not known
    and nothing is listed that it could be, and what ``value`` raises.
    """
    listed = [parse_rule(text) for text in spec.egress.allow]
    found = [*listed, *_usual_hosts(spec, config), *(_endpoint(_filled(url, value)) for url in _urls(config))]
    return tuple(dict.fromkeys(found))


def _usual_hosts(spec: AgentSpec, config: Mapping[str, Any]) -> Iterable[Rule]:
    for provider in providers_of(config, spec):
        if _base_url(mapping(mapping(config.get("provider")).get(provider))) is not None:
            continue
        if provider in PROVIDER_HOSTS:
            yield parse_rule(f"{PROVIDER_HOSTS[provider]}:443")
        elif spec.egress.mode == "none":
            raise InvalidInput(
                f"Where provider {provider} of agent {spec.agent_id} is reached is not known, and mode 'none' would cut it off.",
                hint=f"Name it in provider.{provider}.options.baseURL, or in the list of mode 'allowlist'.",
            )


def _urls(config: Mapping[str, Any]) -> list[str]:
    """Give the addresses of model providers and MCP servers that the configuration names."""
    blocks = [mapping(block) for block in mapping(config.get("provider")).values()]
    servers = [mapping(server) for server in mapping(config.get("mcp")).values()]
    named = [*map(_base_url, blocks), *(server.get("url") for server in servers)]
    return [url for url in named if isinstance(url, str)]


def _base_url(block: Mapping[str, Any]) -> str | None:
    url = mapping(block.get("options")).get("baseURL") or block.get("api")
    return url if isinstance(url, str) and url else None


def _filled(url: str, value: Value) -> str:
    return _PLACEHOLDER.sub(lambda match: value(match[1]), url)


def _endpoint(url: str) -> Rule:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        return parse_rule(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", is_endpoint=True)
    except (ValueError, KeyError):
        raise InvalidInput("A provider's baseURL or an MCP server's url is no http address.") from None


class Reach:
    """Keeps agents' egress as their specs say, on one install."""

    def __init__(self, install: Install) -> None:
        self._install = install
        self._is_told = False

    async def guard_open(self) -> None:
        """Close cloud metadata addresses to the open network. Where that cannot be done it is logged once; ``doctor`` says it too."""
        install = self._install
        try:
            async with install.lock():
                facts = await install.backend.open_network(install.install_id)
                why = None if facts is None else await anyio.to_thread.run_sync(install.barrier.guard, facts.interface)
        except RunnerError as error:
            why = error.message
        if why is not None and not self._is_told:
            self._is_told = True
            _log.warning("metadata_not_closed", reason=why)

    async def close(self) -> Mapping[str, str]:
        """Make sure that the closed network lets through what it should, and nothing else; give the variables that instances on it need.

        Cheap where all stands; mends what was flushed or killed. Raises `InvalidInput` where a closed network cannot be had.
        """
        install = self._install
        async with install.lock():
            facts = await install.backend.closed_network(install.install_id)
            if facts is None:
                raise InvalidInput(
                    "Egress modes none and allowlist cannot be kept here: the engine has no network for them.",
                    hint="`cnap-runner doctor` says why; mode 'open' needs none.",
                )
            proxy = await anyio.to_thread.run_sync(install.barrier.close, facts.interface, facts.gateway)
        # Programs differ in which spelling they read.
        names = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": _NOT_PROXIED}
        # The catalogue's host is not on anybody's list; OpenCode then knows the models of its own release.
        return {**names, **{name.lower(): text for name, text in names.items()}, "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    async def stand_watch(self) -> None:
        """Mend what stands around live instances, in the middle of their turns too: the proxy within seconds, the filter within a minute.

        Before that, forget the rules of instances that ended without anybody who could. Until cancelled.
        """
        await self._forget_dead()
        barrier = self._install.barrier
        for look in itertools.count(1):
            await anyio.sleep(WATCH_SECONDS)
            if not await anyio.to_thread.run_sync(barrier.is_needed):
                continue
            has_proxy = await anyio.to_thread.run_sync(barrier.has_proxy)
            if not has_proxy:
                _log.warning("proxy_was_killed")
            if not has_proxy or look % LOOKS_PER_FILTER == 0:
                await self.close()

    async def keep(self, ref: InstanceRef, agent_id: str, rules: tuple[Rule, ...] | None) -> None:
        """Make sure that a live instance on the closed network reaches what its agent may, whatever became of proxy, filter and rules.

        ``rules`` None: they stay as they are. Raises as `close`.
        """
        await self.close()
        book = self._install.barrier.rulebook
        if rules is not None and not await anyio.to_thread.run_sync(book.replace, ref.instance_id, rules):
            address = (await self._install.backend.inspect(ref)).address
            if address is not None:
                await anyio.to_thread.run_sync(book.put, address, Entry(ref.instance_id, agent_id, rules))

    async def admit(self, wanted: InstanceSpec, rules: tuple[Rule, ...], address: str) -> None:
        """Let an instance that is about to run reach what its agent may."""
        entry = Entry(wanted.instance_id, wanted.agent_id, rules)
        await anyio.to_thread.run_sync(self._install.barrier.rulebook.put, address, entry)

    async def change(self, instance_id: str, rules: tuple[Rule, ...]) -> None:
        """Change what a live instance on the closed network may reach, open connections included."""
        await anyio.to_thread.run_sync(self._install.barrier.rulebook.replace, instance_id, rules)

    async def forget(self, instance_ids: Collection[str]) -> None:
        """Let instances that are no more reach nothing."""
        await anyio.to_thread.run_sync(self._install.barrier.rulebook.remove, instance_ids)

    async def _forget_dead(self) -> None:
        install = self._install
        # Read first: whoever has rules by now was live before the instances are listed.
        known = {
            entry.instance_id for entry in (await anyio.to_thread.run_sync(install.barrier.rulebook.entries)).values()
        }
        if known:
            seen = await install.backend.list_instances(install.install_id)
            await self.forget(known - {observation.ref.instance_id for observation in seen if observation.is_live})

    async def purge(self) -> None:
        """Remove proxy, filter and rules of the install."""
        async with self._install.lock():
            await anyio.to_thread.run_sync(self._install.barrier.remove)
