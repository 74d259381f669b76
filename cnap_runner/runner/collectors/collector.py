"""The collecting of one instance's output: from the backend, line by line, into the agent's segments, in batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import anyio
import anyio.to_thread

from cnap_runner.aio.lone import lone_errors
from cnap_runner.aio.shield import shielded
from cnap_runner.errors import InstanceNotFound
from cnap_runner.model.instance import InstanceRef, LogLine
from cnap_runner.runner.collectors.budget import Budget
from cnap_runner.runner.collectors.resumption import Resumption
from cnap_runner.runner.collectors.segments import END, OURS, SegmentWriter, encode, segments_in, standing_of
from cnap_runner.runner.collectors.server_log import cut_server_log
from cnap_runner.runner.install import Install
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.logging import get_logger

WRITE_SECONDS = 0.3
"""How long a line waits for others, to be written with them."""
BATCH_BYTES = 1 << 18
"""At most so much of an agent's output is in memory; it is read on once that is written."""
LOOK_BYTES = 1 << 20
"""After so much output the server's own log file is looked at."""
LAST_WRITE = timedelta(seconds=5)
_LINE_BYTES = 64
_REST_SECONDS = 0.05
"""Pause after each batch that is dropped: reading costs time too."""

_log = get_logger(__name__)


class Collector:
    """Collects one instance's output. Used once, by whoever holds the agent's log lock."""

    def __init__(
        self,
        install: Install,
        agent_id: str,
        ref: InstanceRef,
        *,
        threads: anyio.CapacityLimiter,
        on_dropped: Callable[[int], None],
    ) -> None:
        settings = install.settings
        self._install, self._agent_id, self._ref = install, agent_id, ref
        self._threads, self._on_dropped = threads, on_dropped
        self._folders = AgentFolders(settings.data_dir, agent_id)
        self._max_bytes = settings.log_max_mb << 20
        self._writer = SegmentWriter(self._folders.logs, max_bytes=self._max_bytes, keep=settings.log_files)
        self._budget = Budget(anyio.current_time())
        self._batch: list[LogLine] = []
        self._size = 0
        self._came = anyio.Event()
        self._writing = anyio.Lock()
        self._dropped = 0
        """Lines that were dropped and not yet told of in the segments."""
        self._has_lines = False
        self._written = LOOK_BYTES
        """Bytes since the server's own log was looked at."""

    async def collect(self, *, is_following: bool) -> bool:
        """Read on from where the last collector stood; following, until the instance ends. Tell whether its output is complete.

        Raises `BackendError`; what was read by then is written.
        """
        instance_id = self._ref.instance_id
        segments = await self._in_thread(segments_in, self._folders.logs)
        standing = await self._in_thread(standing_of, segments, instance_id)
        if standing.is_complete:
            return True
        resumption = Resumption(standing)
        was_live = is_following or await self._is_live()
        try:
            with lone_errors():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_now_and_then)
                    await self._read(resumption, is_following=is_following)
                    tasks.cancel_scope.cancel()
            is_complete = not (await self._is_live() if is_following else was_live)
            if is_complete and (standing.stream or self._has_lines):
                self._batch.append(self._words(END))
        finally:
            async with shielded(LAST_WRITE):
                await self._write()
        return is_complete

    async def _read(self, resumption: Resumption, *, is_following: bool) -> None:
        output = self._install.backend.logs(self._ref, since=resumption.since, is_following=is_following)
        # An async generator, whose type the contract does not promise.
        async with aclosing(cast("Any", output)) as lines:
            line: LogLine
            async for line in lines:
                for fresh in resumption.take(line):
                    await self._take(fresh)
        for fresh in resumption.rest():
            await self._take(fresh)

    async def _take(self, line: LogLine) -> None:
        size = len(line.text) + _LINE_BYTES
        if not self._budget.take(size, anyio.current_time()):
            await self._drop(size)
            return
        self._has_lines = True
        self._batch.append(replace(line, instance_id=self._ref.instance_id))
        self._size += size
        self._came.set()
        if self._size >= BATCH_BYTES:
            await self._write()

    async def _drop(self, size: int) -> None:
        if not self._dropped:
            _log.warning("log_lines_dropped", agent_id=self._agent_id, reason="the agent prints too much")
            await self._write()  # what came before, so that the gap is told of where it is
        self._dropped += 1
        self._on_dropped(1)
        self._size += size
        if self._size >= BATCH_BYTES:
            self._size = 0
            await anyio.sleep(_REST_SECONDS)

    async def _write_now_and_then(self) -> None:
        while True:
            await self._came.wait()
            await anyio.sleep(WRITE_SECONDS)
            self._came = anyio.Event()
            await self._write()

    async def _write(self) -> None:
        """Write what was read. What cannot be written is dropped and counted: agents go on without a log where the disk is full."""
        async with self._writing:
            batch, self._batch, self._size = self._batch, [], 0
            if not batch:
                return
            missing = self._dropped
            gap = [self._words(f"{missing} lines were dropped here")] if missing else []
            try:
                await self._in_thread(self._store, [*gap, *batch])
            except FileNotFoundError:
                return  # the agent was deleted with its files
            except OSError as error:
                if not missing:
                    _log.warning("log_lines_dropped", agent_id=self._agent_id, reason=error.strerror or str(error))
                self._dropped += len(batch)
                self._on_dropped(len(batch))
            else:
                self._dropped -= missing

    def _store(self, batch: list[LogLine]) -> None:
        redact = self._install.redactor.redact
        lines = [encode(replace(line, text=redact(line.text))) for line in batch]
        if self._written >= LOOK_BYTES:
            cut_server_log(self._folders.state, max_bytes=self._max_bytes)
            self._written = 0
        self._writer.append(lines)
        self._written += sum(map(len, lines))

    def _words(self, text: str) -> LogLine:
        return LogLine(stream=OURS, text=text, at=self._install.now(), instance_id=self._ref.instance_id)

    async def _is_live(self) -> bool:
        try:
            return (await self._install.backend.inspect(self._ref)).is_live
        except InstanceNotFound:
            return False

    async def _in_thread(self, act: Callable[..., Any], *arguments: object) -> Any:
        return await anyio.to_thread.run_sync(act, *arguments, limiter=self._threads)
