"""What ``doctor`` looks at. Each check looks, changes nothing, and says what is wrong and how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.to_thread

from cnap_runner.errors import RunnerError

if TYPE_CHECKING:
    from cnap_runner.model.instance import Capabilities, EngineInfo
    from cnap_runner.settings import Settings

DISK_FAIL_MB, DISK_WARN_MB = 200, 2048
"""A fresh agent's folders take some 50 MB; what agents check out and install soon takes more."""


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``doctor``."""

    check: str
    state: State
    message: str
    hint: str | None = None


Check = Callable[["Settings"], Awaitable[list[Finding]]]


async def check_engine(settings: Settings) -> list[Finding]:
    """Whether the engine answers, which it is, and what it cannot do."""
    from cnap_runner.wiring import make_backend

    try:
        backend = await anyio.to_thread.run_sync(make_backend, settings)
        try:
            info = await backend.check()
        finally:
            await backend.aclose()
    except RunnerError as error:
        return [_failed("engine", error)]
    about = ", ".join(f"{name} {value}" for name, value in info.details.items() if value)
    found = Finding("engine", State.OK, f"{info.name} {info.version}" + (f" ({about})" if about else ""))
    problems = [Finding("engine", State.WARN, problem) for problem in info.problems]
    return [found, *problems, *_runtime(settings, info)]


def _runtime(settings: Settings, info: EngineInfo) -> list[Finding]:
    known = info.details.get("runtimes", "").split()
    if settings.runtime is None or settings.runtime in known:
        return []
    message = f"The engine knows no runtime {settings.runtime!r}; it knows {', '.join(known) or 'none'}."
    return [Finding("runtime", State.FAIL, message, "Register it with the engine, or correct CNAP_RUNNER_RUNTIME.")]


async def check_image(settings: Settings) -> list[Finding]:
    """Whether agents have something to run, of a version this package knows."""
    if settings.backend == "docker":
        return await anyio.to_thread.run_sync(_check_docker_image, settings.image)
    return []


def _check_docker_image(tag: str) -> list[Finding]:
    from cnap_runner.errors import ImageNotFound
    from cnap_runner.image.context import OPENCODE_LABEL
    from cnap_runner.image.engine import connected, find_image
    from cnap_runner.opencode.client import check_version

    try:
        with connected() as engine:
            found = find_image(engine, tag)
        if found is None:
            raise ImageNotFound(f"The engine has no image {tag}.")
        version = (found["Config"].get("Labels") or {}).get(OPENCODE_LABEL)
        if version is None:
            return [
                Finding(
                    "image",
                    State.WARN,
                    f"{tag} does not say which OpenCode it has.",
                    "See `cnap-runner image version`.",
                )
            ]
        check_version(version)
    except RunnerError as error:
        return [_failed("image", error)]
    return [Finding("image", State.OK, f"{tag}, OpenCode {version}, {found['Size'] / 1e6:.0f} MB")]


async def check_data_folder(settings: Settings) -> list[Finding]:
    """Whether the data folder can be written, and the room that is left."""
    return await anyio.to_thread.run_sync(lambda: list(_data_folder(settings.data_dir)))


def _data_folder(data_dir: Path) -> Iterator[Finding]:
    present = next(folder for folder in (data_dir, *data_dir.absolute().parents) if os.path.lexists(folder))
    if (why := _why_not_writable(present)) is not None:
        yield Finding(
            "data folder",
            State.FAIL,
            f"{data_dir} cannot be written by this user: {present}: {why}.",
            "Give this user the right to, or set CNAP_RUNNER_DATA_DIR to another folder.",
        )
        return
    yield Finding("data folder", State.OK, str(data_dir) + ("" if present == data_dir else " (made at the first run)"))
    free = shutil.disk_usage(present).free >> 20
    state = State.FAIL if free < DISK_FAIL_MB else State.WARN if free < DISK_WARN_MB else State.OK
    hint = None if state is State.OK else "Free some space, or move the data folder with CNAP_RUNNER_DATA_DIR."
    yield Finding("disk", state, f"{free} MB are free", hint)


def _why_not_writable(folder: Path) -> str | None:
    """Tell why nothing can be made in a folder. Rights alone do not say: root has them on file systems that take nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder):  # it has no name: nothing is seen of it
            return None
    except OSError as error:
        return error.strerror or str(error)


async def check_database(settings: Settings) -> list[Finding]:
    """Whether the database is whole and of a schema this version knows."""
    path = settings.data_dir / "runner.db"
    if not path.exists():
        return [Finding("database", State.OK, "none yet (made at the first run)")]
    return await anyio.to_thread.run_sync(_check_database, path)


def _check_database(path: Path) -> list[Finding]:
    from cnap_runner.store.schema import SCHEMA_VERSION

    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except sqlite3.Error as error:
        state, version = str(error), None
    if state != "ok":
        return [Finding("database", State.FAIL, f"{path.name} is damaged: {state}", f"Restore {path} from a copy.")]
    if version > SCHEMA_VERSION:
        hint = "Upgrade cnap-runner, or use another CNAP_RUNNER_DATA_DIR."
        return [
            Finding("database", State.FAIL, f"{path.name} has schema {version}, newer than {SCHEMA_VERSION}.", hint)
        ]
    return [
        Finding("database", State.OK, f"schema {version}" + ("" if version == SCHEMA_VERSION else ", to be migrated"))
    ]


async def check_secrets(settings: Settings) -> list[Finding]:
    """Whether the install's key is its owner's alone, and the vault can be opened with it."""
    return await anyio.to_thread.run_sync(lambda: list(_secrets(settings)))


def _secrets(settings: Settings) -> Iterator[Finding]:
    from cnap_runner.wiring import make_secrets

    key = settings.data_dir / "install.key"
    try:
        if key.stat().st_mode & 0o077:
            why = f"{key} can be read by others: it opens the vault and every agent's server."
            yield Finding("secrets", State.WARN, why, f"chmod 600 {key}")
        vault = make_secrets(settings, key.read_bytes()).vault
        count = len(vault.names() or ())
    except FileNotFoundError:
        return  # no install yet
    except OSError as error:
        yield Finding("secrets", State.FAIL, f"{key} cannot be read: {error.strerror}.")
    except RunnerError as error:
        yield _failed("secrets", error)
    else:
        if count:
            yield Finding("secrets", State.OK, f"{count} in {vault.describe()}")


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


async def check_npm(_: Settings) -> list[Finding]:
    """Whether OpenCode could be fetched; only needed to build the image, or for the process backend's first start."""
    from cnap_runner.image.npm_client import npm_command

    try:
        command = npm_command()
    except RunnerError as error:
        return [Finding("npm", State.WARN, f"{error.message} The image cannot be built here.", error.hint)]
    return [Finding("npm", State.OK, command[0])]


async def check_models(settings: Settings) -> list[Finding]:
    """Whether a provider is configured at an address that a container cannot reach."""
    from cnap_runner.errors import InvalidInput
    from cnap_runner.wiring import load_template

    try:
        configurations = [("the template", await anyio.to_thread.run_sync(load_template, settings.data_dir))]
    except InvalidInput as error:
        return [_failed("template", error)]
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


async def check_egress(settings: Settings) -> list[Finding]:
    """Whether what agents send can be filtered: for egress modes none and allowlist, and to close cloud metadata addresses."""
    if settings.backend != "docker":
        return []
    return await anyio.to_thread.run_sync(_check_egress, settings)


def _check_egress(settings: Settings) -> list[Finding]:
    from cnap_runner.egress.filter import why_no_filter
    from cnap_runner.egress.process import living_proxy

    if (why := why_no_filter()) is not None:
        message = f"Agents reach cloud metadata addresses, and egress modes none and allowlist are refused: {why}"
        return [Finding("egress", State.WARN, message, "Install it, or run cnap-runner as root or with CAP_NET_ADMIN.")]
    proxy = living_proxy(settings.data_dir / "egress")
    running = f"the proxy listens at {proxy.address}:{proxy.port}" if proxy else "no proxy is needed now"
    return [Finding("egress", State.OK, f"can be filtered; {running}")]


def _failed(check: str, error: RunnerError) -> Finding:
    # Errors from elsewhere advise to ask doctor, who is speaking here.
    hint, is_ours, _ = (error.hint or "").partition("; `cnap-runner doctor`")
    return Finding(check, State.FAIL, error.message, f"{hint}." if is_ours else error.hint)


CHECKS: tuple[Check, ...] = (
    check_engine,
    check_image,
    check_data_folder,
    check_database,
    check_secrets,
    check_limits,
    check_npm,
    check_models,
    check_egress,
)
