"""The metrics of one manager: what it counted goes to the store, and what the install looks like is shown where that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from cnap_runner.aio.guarded import keep_running
from cnap_runner.errors import RunnerError, StoreBusy, StoreError
from cnap_runner.model.figures import DiskMeasured, MetricsSnapshot
from cnap_runner.runner.install import Install
from cnap_runner.runner.metering.exposure import Exposure
from cnap_runner.runner.metering.sampler import Sampler
from cnap_runner.telemetry.logging import about, get_logger

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from cnap_runner.telemetry.metrics.exposition import InstallCollector, Reading

STORED_EVERY = timedelta(seconds=5)
"""What a manager counted by itself is lost with it for so long, if it is killed. Runs and decisions are counted with themselves."""
TRY_AGAIN = timedelta(seconds=5)
"""How often a manager asks whether another one still serves the install's metrics."""

_log = get_logger(__name__)

_version = cache(partial(version, "cnap-runner"))


class Metering:
    """Stores what one manager counts, and shows the install's figures."""

    def __init__(self, install: Install, disks: Callable[[], list[DiskMeasured]]) -> None:
        self._install = install
        self.sampler = Sampler(install, disks)
        """Runs only where something is shown: of the managers that could serve an install's figures, in the one that does."""

    async def store(self) -> None:
        """Bring what was counted to the store. Where that fails it is kept for the next time; raises `StoreError` then."""
        counts = self._install.metrics.take()
        if not counts:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._install.store.add_counts(counts)
        except StoreError:
            self._install.metrics.put_back(counts)
            raise

    async def store_rest(self) -> None:
        """Do so for the last time. What cannot be stored is lost: a manager does not fail to close over it."""
        try:
            await self.store()
        except StoreError as error:
            _log.warning("counts_not_stored", error=str(error))

    async def store_regularly(self) -> None:
        """Do so until cancelled."""
        while True:
            await anyio.sleep(STORED_EVERY.total_seconds())
            await self.store()

    async def snapshot(self) -> MetricsSnapshot:
        """Give FR-010's counters, with what this manager counted a moment ago."""
        await self.store()
        return MetricsSnapshot.of((await self._install.store.tally()).counts)

    def read(self) -> Reading:
        """Read all that is shown. Blocks for milliseconds, from any thread. Raises `StoreError`."""
        from cnap_runner.telemetry.metrics.exposition import Reading  # noqa: PLC0415 - loads Prometheus's library

        install = self._install
        return Reading(
            install_id=install.install_id,
            version=_version(),
            at=install.now(),
            tally=install.store.tally_blocking(),
            sample=self.sampler.sample,
            watch_age=install.metrics.watch_age(),
            max_containers=install.settings.max_containers,
            is_per_agent=install.settings.metrics_per_agent,
        )

    async def show(self, exposure: Exposure, *, task_status: TaskStatus[None]) -> None:
        """Show the install's figures until cancelled. Started once they are, or another manager serves them at that port.

        Raises `InvalidInput` before it is started where the port is another program's and `Exposure.must_serve`.
        """
        registry, collector = await anyio.to_thread.run_sync(self._register, exposure.registry)
        try:
            if exposure.port is None:
                task_status.started()
                await anyio.sleep_forever()
            else:
                await self._serve(registry, exposure.port, exposure, task_status)
        finally:
            registry.unregister(collector)

    def _register(self, registry: CollectorRegistry | None) -> tuple[CollectorRegistry, InstallCollector]:
        """In a thread: the library takes a tenth of a second to load."""
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector  # noqa: PLC0415

        from cnap_runner.telemetry.metrics.exposition import InstallCollector  # noqa: PLC0415

        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        collector = InstallCollector(self.read)
        registry.register(collector)
        return registry, collector

    async def _serve(
        self, registry: CollectorRegistry, port: int, exposure: Exposure, task_status: TaskStatus[None]
    ) -> None:
        """Serve, or wait until the manager that serves them ends: the figures are the install's, so one is enough."""
        from cnap_runner.telemetry.metrics.server import LOOPBACK, serving  # noqa: PLC0415

        first = _Once(task_status.started)
        while True:
            try:
                async with exposure.right_to_serve(), serving(registry, port) as taken:
                    _log.info("metrics_served", url=f"http://{LOOPBACK}:{taken}/metrics")
                    first.call()
                    await self._sample(exposure)
            except StoreBusy:
                _log.debug("metrics_served_by_another_manager", port=port)
            except RunnerError as error:
                if exposure.must_serve and not first.is_called:
                    raise
                _log.warning("metrics_not_served", error=str(error))
            first.call()
            await anyio.sleep(TRY_AGAIN.total_seconds())

    async def _sample(self, exposure: Exposure) -> None:
        """Measure containers until cancelled, unless that is done anyway: somebody else's registry may be read at any time."""
        if exposure.registry is not None:
            await anyio.sleep_forever()
        with about(**self._install.ids):
            await keep_running(self.sampler.run, failed=lambda error: _log.warning("sampling_failed", error=str(error)))


class _Once:
    """Calls something the first time alone."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.is_called = False

    def call(self) -> None:
        if not self.is_called:
            self.is_called = True
            self._function()
