"""What every part of a manager shares: the install's identity and the parts it was put together from."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cnap_runner.backends.base import Backend
from cnap_runner.egress.barrier import Barrier
from cnap_runner.errors import InvalidInput
from cnap_runner.model.kit import Kit
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.feed import SharedFeed
from cnap_runner.runner.known import KnownRunners
from cnap_runner.runner.metering.exposure import Exposure
from cnap_runner.secrets.base import SecretStore
from cnap_runner.settings import Settings
from cnap_runner.store.base import Store
from cnap_runner.telemetry.metrics.recorder import Metrics
from cnap_runner.telemetry.redaction import Redactor
from cnap_runner.telemetry.tracing import Tracer

KEY_BYTES = 32

Connect = Callable[[str, str], OpenCodeClient]
"""Makes a client from an endpoint and a password."""


def utc_now() -> datetime:
    """Tell the time, aware of its zone."""
    return datetime.now(UTC)


def _no_kit(_image: str) -> Kit | None:
    return None


def _alone() -> AbstractAsyncContextManager[object]:
    return nullcontext()


def _has_any_image(_image: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Install:
    """One manager's view of its install."""

    install_id: str
    manager_id: str
    key: bytes
    settings: Settings
    backend: Backend
    store: Store
    is_alive: Callable[[str], bool]
    """Whether a manager's process still lives."""
    redactor: Redactor
    secrets: SecretStore
    barrier: Barrier
    connect: Connect
    known: KnownRunners
    lock: Callable[[], AbstractAsyncContextManager[object]]
    """``install.lock``: held for what happens once per install, such as making its networks."""
    keeper_lock: Callable[[], AbstractAsyncContextManager[object]] = _alone
    """``managers/keeper.lock``: held by whoever sweeps; raises `StoreBusy` at once where somebody else does."""
    kit_for: Callable[[str], Kit | None] = _no_kit
    """What must be brought into an image that is not ours. Blocks; raises as `cnap_runner.image.kit.prepare_kit`."""
    has_image: Callable[[str], bool] = _has_any_image
    """Whether the engine has an image, as far as it can be asked. Blocks; raises nothing."""
    now: Callable[[], datetime] = utc_now
    metrics: Metrics = field(default_factory=Metrics)
    """Counts what this manager sees, at next to no cost; `runner.metering` stores it."""
    exposure: Exposure | None = None
    """Where the install's figures are shown; None: nowhere."""
    tracer: Tracer = field(default_factory=Tracer)
    """Makes the spans of runs; by default ones that nobody records."""

    @property
    def ids(self) -> dict[str, str]:
        """What all log lines of this manager carry."""
        return {"install_id": self.install_id, "manager_id": self.manager_id}

    async def save_runner(self, record: RunnerRecord) -> None:
        """Write a runner's record. This manager holds the agent's lease."""
        await self.store.save_runner(record, manager_id=self.manager_id)
        self.known.see(record)

    def password_of(self, instance_id: str) -> str:
        """Derive the server's password of an instance. Any manager of the install can; none is stored."""
        return hmac.new(self.key, instance_id.encode(), hashlib.sha256).hexdigest()

    def client_for(self, endpoint: str, instance_id: str) -> OpenCodeClient:
        """Make a client for an instance's server; its password is redacted from here on."""
        password = self.password_of(instance_id)
        self.redactor.add(password)
        return self.connect(endpoint, password)

    def events_of(self, client: OpenCodeClient) -> SharedFeed:
        """Make the stream that the turns of one instance share; nothing is opened yet."""
        return SharedFeed(client, silence=self.settings.stall_timeout)


def load_key(path: Path) -> bytes:
    """Read the install's key, or make it (0600). The caller holds ``install.lock``."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_BYTES)
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    if len(key) != KEY_BYTES:
        raise InvalidInput(
            f"{path.name} is damaged: it has {len(key)} bytes instead of {KEY_BYTES}.",
            hint="Put the original back; or remove it and stop all agents, so that they start with a new one.",
        )
    return key
