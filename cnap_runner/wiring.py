"""Settings in, a running system out. The only module that names concrete classes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from cnap_runner.backends.base import Backend
from cnap_runner.egress.barrier import Barrier
from cnap_runner.errors import InvalidInput, RunnerError, StoreError
from cnap_runner.image.assets import config_templates
from cnap_runner.model.engine import Capabilities
from cnap_runner.model.ids import new_id
from cnap_runner.model.kit import Kit
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.runner import manager
from cnap_runner.runner.install import Install, load_key
from cnap_runner.runner.known import KnownRunners
from cnap_runner.runner.metering.exposure import Exposure
from cnap_runner.runner.provisioning.configuration import mapping
from cnap_runner.runner.workspaces.folders import folder_error
from cnap_runner.secrets.base import SecretStore
from cnap_runner.secrets.environment import EnvironmentSource
from cnap_runner.secrets.files import FileSource
from cnap_runner.secrets.keyring import KeyringSource
from cnap_runner.secrets.vault import Vault
from cnap_runner.settings import Settings
from cnap_runner.store.presence import InstallLock, KeeperLock, ManagerLock, MetricsLock, liveness, remove_dead_files
from cnap_runner.store.sql import SqlStore
from cnap_runner.telemetry.redaction import Redactor
from cnap_runner.telemetry.tracing import Tracer, make_tracer

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

INSTALL_ID = "install.id"
"""The install's id as plain text, so that what it made can be found and removed without its database."""

TEMPLATE = Path("opencode") / "default-config.json"
MCP_TEMPLATE = Path("opencode") / "default-mcp.json"


class RunnerManager(manager.RunnerManager):
    """Drives the agents of an install: one long-lived OpenCode container each.

    ``settings`` default to those of the environment. An ``is_observer`` only looks and changes what it is told to; it does not finish
    what dead managers left. ``redactor`` learns the secrets that this manager comes to know: give the one that your logs pass. The
    install's metrics are shown in ``registry`` while the manager is open; ``metrics_port`` serves them, in a registry of their own where
    none is given. A registry takes one manager. A port that another program has keeps the manager from opening, unless ``must_serve`` is
    false. Runs are traced with ``tracer_provider``, or with the program's own one where it has
    loaded OpenTelemetry.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        is_observer: bool = False,
        redactor: Redactor | None = None,
        registry: CollectorRegistry | None = None,
        tracer_provider: TracerProvider | None = None,
        must_serve: bool = True,
    ) -> None:
        self.settings = settings or Settings()
        exposure = make_exposure(self.settings, registry, is_observer=is_observer, must_serve=must_serve)
        super().__init__(
            lambda: open_install(self.settings, redactor, exposure=exposure, tracer=make_tracer(tracer_provider)),
            lambda: load_template(self.settings.data_dir),
            is_observer=is_observer,
        )


@asynccontextmanager
async def open_install(
    settings: Settings,
    redactor: Redactor | None = None,
    *,
    exposure: Exposure | None = None,
    tracer: Tracer | None = None,
) -> AsyncIterator[Install]:
    """Open the data folder as one more manager of its install; make it at the first time."""
    data_dir, tracer = settings.data_dir, tracer or Tracer()
    await anyio.to_thread.run_sync(_make_data_dir, data_dir)
    # In a thread: the process backend's program may have to be fetched first.
    backend = await anyio.to_thread.run_sync(make_backend, settings)
    store = SqlStore(data_dir / "runner.db")
    manager_id = new_id("m")
    try:
        async with ManagerLock(data_dir, manager_id):
            async with InstallLock(data_dir):
                await store.open()
                install_id = await store.install_id()
                await anyio.to_thread.run_sync(_keep_install_id, data_dir, install_id)
                key = await anyio.to_thread.run_sync(load_key, data_dir / "install.key")
                await anyio.to_thread.run_sync(remove_dead_files, data_dir)
            install = Install(
                install_id=install_id,
                manager_id=manager_id,
                key=key,
                settings=settings,
                backend=backend,
                store=store,
                is_alive=liveness(data_dir),
                redactor=redactor or Redactor(),
                secrets=make_secrets(settings, key),
                barrier=make_barrier(settings, install_id),
                connect=partial(OpenCodeClient, wrap=tracer.wrap),
                known=KnownRunners(),
                lock=lambda: InstallLock(data_dir),
                keeper_lock=lambda: KeeperLock(data_dir),
                kit_for=partial(_kit_for, own_image=settings.image),
                has_image=_has_image,
                exposure=exposure,
                tracer=tracer,
            )
            yield install
    finally:
        with anyio.CancelScope(shield=True):
            await backend.aclose()
            await store.aclose()


def make_backend(settings: Settings) -> Backend:
    """Make the backend that the settings name. Asks no engine. Blocks; the process backend's program is fetched where it is not there yet."""
    # An engine's library is loaded only where that backend is used: it costs a command line a tenth of a second.
    if settings.backend == "process":
        from cnap_runner.backends.process import ProcessBackend  # noqa: PLC0415
        from cnap_runner.image.packages import opencode_binary  # noqa: PLC0415
        from cnap_runner.image.way_out import WayOut  # noqa: PLC0415

        return ProcessBackend(data_dir=settings.data_dir, opencode_binary=opencode_binary(way=WayOut.of(settings)))
    from cnap_runner.backends.docker import DockerBackend  # noqa: PLC0415

    return DockerBackend()


def capabilities_of(settings: Settings) -> Capabilities:
    """Tell what the backend that the settings name can give, without making it."""
    if settings.backend == "process":
        from cnap_runner.backends.process.backend import CAPABILITIES  # noqa: PLC0415
    else:
        from cnap_runner.backends.docker.backend import CAPABILITIES  # noqa: PLC0415
    return CAPABILITIES


def _kit_for(image: str, *, own_image: str) -> Kit | None:
    from cnap_runner.image.kit import prepare_kit  # noqa: PLC0415 - loads the engine's library

    return prepare_kit(image, own_image)


def _has_image(image: str) -> bool:
    from cnap_runner.image.engine import connected, find_image  # noqa: PLC0415 - loads the engine's library

    try:
        with connected() as engine:
            return find_image(engine, image) is not None
    except RunnerError:
        return True  # what cannot be asked now is found at the start


def make_exposure(
    settings: Settings,
    registry: CollectorRegistry | None = None,
    *,
    is_observer: bool = False,
    must_serve: bool = True,
) -> Exposure | None:
    """Tell where a manager shows the install's figures; None: nowhere. One that only looks serves nothing: it is gone in a moment."""
    port = None if is_observer else settings.metrics_port
    if registry is None and port is None:
        return None
    return Exposure(registry, port, right_to_serve=lambda: MetricsLock(settings.data_dir), must_serve=must_serve)


def make_secrets(settings: Settings, key: bytes) -> SecretStore:
    """Make the store of secrets; ``key`` is the install's. Reads nothing."""
    return SecretStore(
        [
            EnvironmentSource(os.environ, settings.env_allow),
            FileSource(settings.secrets_dir),
            KeyringSource(),
            Vault(settings.data_dir, key),
        ]
    )


def make_barrier(settings: Settings, install_id: str) -> Barrier:
    """Make what stands between an install's agents and the world. Starts and changes nothing."""
    proxy = settings.https_proxy or settings.http_proxy or ""
    return Barrier(settings.data_dir, install_id, http_proxy=proxy, no_proxy=settings.no_proxy or "")


def read_install_id(data_dir: Path) -> str | None:
    """Read the id of the install in a data folder, without its database; None where none is kept. Blocks. Raises `StoreError`."""
    try:
        return (data_dir / INSTALL_ID).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{data_dir / INSTALL_ID} cannot be read: {error}.") from error


def load_template(data_dir: Path) -> dict[str, Any]:
    """Read the template of OpenCode's settings, with the MCP servers of every agent in it.

    Each of the two files is the one under the data folder's ``configs/`` where there is one, else ours. Blocks. Raises `InvalidInput`.
    """
    template = _read_template(data_dir, TEMPLATE)
    servers = _read_template(data_dir, MCP_TEMPLATE)
    return template | ({"mcp": {**mapping(template.get("mcp")), **servers}} if servers else {})


def _read_template(data_dir: Path, name: Path) -> dict[str, Any]:
    own = data_dir / "configs" / name
    path = own if own.is_file() else config_templates() / name
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", hint="Let this user read it.") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.", hint="Correct it, or remove it to use ours.") from error
    if not isinstance(data, dict):
        raise InvalidInput(f"{path} is not a JSON object.", hint="Correct it, or remove it to use ours.")
    return data


def _keep_install_id(data_dir: Path, install_id: str) -> None:
    """Write the id down at the first time, and refuse a database of another. The caller holds ``install.lock``."""
    kept = read_install_id(data_dir)
    if kept is None:
        # Whole or not at all: half an id would lock its owner out.
        draft = data_dir / f"{INSTALL_ID}.new"
        try:
            draft.write_text(f"{install_id}\n", encoding="ascii")
            draft.replace(data_dir / INSTALL_ID)
        except OSError as error:
            raise folder_error(data_dir, error) from error
    elif kept != install_id:
        raise StoreError(
            f"The database in {data_dir} is not the one this folder had.",
            hint="Restore runner.db from a copy, or `cnap-runner purge` to remove everything and begin anew.",
        )


def _make_data_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "managers").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise folder_error(path, error) from error
