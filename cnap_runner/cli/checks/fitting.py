"""Settings that do not fit this machine: limits it does not have, models that agents cannot reach."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.to_thread

from cnap_runner.cli.checks.finding import Finding, State, failed_by
from cnap_runner.errors import RunnerError

if TYPE_CHECKING:
    from cnap_runner.model.engine import Capabilities
    from cnap_runner.settings import Settings


async def check_limits(settings: Settings) -> list[Finding]:
    """Whether this machine has what the settings give to one agent. Nothing is said of limits that the backend does not apply."""
    from cnap_runner.wiring import make_backend

    try:
        backend = await anyio.to_thread.run_sync(make_backend, settings)
    except RunnerError:
        return []  # the check of the engine says so
    limited = _limited(backend.capabilities)
    await backend.aclose()
    return [finding for finding in _shares(settings) if finding.check in limited]


def _limited(can: Capabilities) -> set[str]:
    return {name for name, is_limited in (("memory", can.limits_memory), ("cpu", can.limits_cpu)) if is_limited}


def _shares(settings: Settings) -> list[Finding]:
    cpus = os.cpu_count() or 1
    memory_mb = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20
    found = []
    if settings.memory_mb > memory_mb:
        hint = "Lower CNAP_RUNNER_MEMORY_MB."
        found.append(Finding("memory", State.FAIL, f"{settings.memory_mb} MiB per agent, {memory_mb} here.", hint))
    elif settings.memory_mb * settings.max_containers > memory_mb:
        message = f"{settings.max_containers} agents of {settings.memory_mb} MiB could want more than the {memory_mb} MiB here."
        hint = "Lower CNAP_RUNNER_MAX_CONTAINERS or CNAP_RUNNER_MEMORY_MB if all of them work at once."
        found.append(Finding("memory", State.WARN, message, hint))
    else:
        found.append(Finding("memory", State.OK, f"{settings.memory_mb} MiB per agent, {memory_mb} here"))
    given = f"{min(settings.cpus, cpus):g} of {cpus} cores per agent"
    return [*found, Finding("cpu", State.OK, given)]


async def check_models(settings: Settings) -> list[Finding]:
    """Whether a provider is configured at an address that a container cannot reach."""
    from cnap_runner.errors import InvalidInput
    from cnap_runner.wiring import load_template

    try:
        configurations = [("the template", await anyio.to_thread.run_sync(load_template, settings.data_dir))]
    except InvalidInput as error:
        return [failed_by("template", error)]
    if settings.backend != "docker":
        return []
    configurations += await anyio.to_thread.run_sync(_agents_configurations, settings.data_dir / "runner.db")
    return [
        Finding(
            "model",
            State.WARN,
            f"Provider {provider} of {owner} is at {url}: inside a container that address is the container itself.",
            "Write host.docker.internal instead, and let the model server listen on more than loopback.",
        )
        for owner, configuration in configurations
        for provider, url in _loopback_urls(configuration)
    ]


def _agents_configurations(database: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT agent_id, spec FROM agents WHERE deleted_at IS NULL").fetchall()
    except sqlite3.Error:
        return []  # none yet, or damaged: that check says so
    return [(f"agent {agent_id}", json.loads(spec).get("opencode", {})) for agent_id, spec in rows]


def _loopback_urls(configuration: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, provider in (configuration.get("provider") or {}).items():
        url = str((provider.get("options") or {}).get("baseURL", ""))
        host = urlsplit(url).hostname or ""
        if host in {"localhost", "::1"} or host.startswith("127."):
            yield name, url
