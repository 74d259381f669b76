"""Backends that fail in one way each, which is their name; in all else they are a `FakeBackend`."""

from __future__ import annotations

from collections.abc import Collection

import anyio

from cnap_runner.backends.base import OnAddress
from cnap_runner.errors import EngineUnavailable, InstanceExited, InstanceStartFailed
from cnap_runner.model.instance import InstanceRef, InstanceSpec
from cnap_runner.testing.fake_backend import FakeBackend, Serve


class RefusingBackend(FakeBackend):
    """Creates nothing."""

    async def create(self, spec: InstanceSpec) -> InstanceRef:
        """Raise `InstanceStartFailed`."""
        await self._enter()
        raise InstanceStartFailed(f"No instance of {spec.agent_id} can be created here.")


class HangingBackend(FakeBackend):
    """Creates instances whose start never ends."""

    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:  # noqa: ARG002
        """Wait until cancelled."""
        await self._enter()
        self._get(ref)
        await anyio.sleep_forever()
        raise AssertionError("unreachable")


class DyingBackend(FakeBackend):
    """Starts instances that end at once."""

    async def start(self, ref: InstanceRef, *, secrets: bytes, on_address: OnAddress | None = None) -> str:
        """Start an instance and end it. Raises `InstanceExited`."""
        await super().start(ref, secrets=secrets, on_address=on_address)
        self.kill(ref.instance_id, 1)
        raise InstanceExited(f"Instance {ref.instance_id} ended with exit code 1.")


class FlakyBackend(FakeBackend):
    """Does not answer at first: the first ``failures`` calls, of whatever verb, raise `EngineUnavailable`."""

    def __init__(self, *, failures: int, serve: Serve | None = None, images: Collection[str] | None = None) -> None:
        super().__init__(serve=serve, images=images)
        self.failures_left = failures

    async def _enter(self) -> None:
        await super()._enter()
        if self.failures_left > 0:
            self.failures_left -= 1
            raise EngineUnavailable("The engine is away for a moment.")
