"""Live instances measured in turn, now and then, so that a scrape asks no engine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import anyio
import anyio.to_thread

from cnap_runner.errors import RunnerError
from cnap_runner.model.figures import DiskMeasured, Measured, Sample
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.workspaces.disk import free_bytes

EVERY = timedelta(seconds=60)
AT_ONCE = 4
"""Instances measured at the same time: an engine has better things to do."""
PATIENCE = timedelta(seconds=5)
"""For one instance. It takes milliseconds, or two seconds on an old engine."""
SHARE = 20
"""At most one part in so many of the time is spent on measuring."""

_MEASURED = frozenset({RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED})


class Sampler:
    """Keeps the latest `Sample` of an install."""

    def __init__(self, install: Install, disks: Callable[[], list[DiskMeasured]]) -> None:
        """``disks`` tells what is known of the agents' files; asked in the event loop."""
        self._install = install
        self._disks = disks
        self._cpu: dict[str, float] = {}
        """CPU seconds of each instance when it was measured last."""
        self.sample = Sample()
        """What was measured last. Replaced whole, so that any thread may read it."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            began = anyio.current_time()
            await self.measure()
            took = anyio.current_time() - began
            await anyio.sleep(max(EVERY.total_seconds(), took * (SHARE - 1)))

    async def measure(self) -> None:
        """Measure all live instances once. One that cannot be measured is counted as such."""
        known = await self._install.store.list_runners(tuple(RunnerStatus))
        records = [record for record in known if record.status in _MEASURED]
        measured: list[Measured] = []
        limiter = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for record in records:
                tasks.start_soon(self._measure_one, record, limiter, measured)
        self.sample = Sample(
            at=self._install.now(),
            instances=tuple(sorted(measured, key=lambda each: each.agent_id)),
            unmeasured=len(records) - len(measured),
            cpu_seconds=self.sample.cpu_seconds + self._used_since(records, measured),
            disks=self._disks_of({record.agent_id for record in known}),
            disk_free=await self._disk_free(),
        )

    async def _measure_one(
        self, record: RunnerRecord, limiter: anyio.CapacityLimiter, measured: list[Measured]
    ) -> None:
        if record.ref is None:
            return
        async with limiter:
            with anyio.move_on_after(PATIENCE.total_seconds()):
                try:
                    usage = await self._install.backend.usage(record.ref)
                except RunnerError:  # it may have ended a moment ago
                    return
                measured.append(Measured(record.agent_id, usage, record.limits))

    def _used_since(self, records: list[RunnerRecord], measured: list[Measured]) -> float:
        """Tell the CPU seconds used since the last measuring. What an instance used before it was first seen counts if it is new."""
        instances = {record.agent_id: record.instance_id or "" for record in records}
        used = {instances[each.agent_id]: each.usage.cpu_seconds for each in measured}
        is_first = self.sample.at is None
        grown = sum(max(now - self._cpu.get(instance, now if is_first else 0.0), 0.0) for instance, now in used.items())
        # One that could not be measured this time is remembered, else all that it ever used would count again.
        live = set(instances.values())
        self._cpu = {key: value for key, value in (self._cpu | used).items() if key in live}
        return grown

    def _disks_of(self, known: set[str]) -> tuple[DiskMeasured, ...]:
        """Leave out agents that were deleted since their files were measured."""
        return tuple(disk for disk in self._disks() if disk.agent_id in known)

    async def _disk_free(self) -> int | None:
        try:
            return await anyio.to_thread.run_sync(free_bytes, self._install.settings.data_dir)
        except OSError:
            return None
