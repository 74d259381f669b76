"""The collecting of one instance's output: from the backend, line by line, into the agent's segments, in batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import anyio
import anyio.to_thread

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import InstanceNotFound
from cnap_runner.model.instance import InstanceRef, LogLine
from cnap_runner.runner.collectors.budget import Budget
from cnap_runner.runner.collectors.line_text import line_text
from cnap_runner.runner.collectors.resumption import Resumption
from cnap_runner.runner.collectors.scribe import Scribe
from cnap_runner.runner.collectors.segments import END, OURS, SegmentWriter, Standing, encode, segments_in, standing_of
from cnap_runner.runner.collectors.server_log import cut_server_log
from cnap_runner.runner.install import Install
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.logging import get_logger

BATCH_BYTES = 1 << 18
"""A batch is written once it has so many characters. At most two of an agent are in memory: one is read while another is written."""
LOOK_BYTES = 1 << 20
"""After so much output the server's own log file is looked at."""
LAST_WRITE = timedelta(seconds=5)
_LINE_BYTES = 64
GATHER_SECONDS = 0.2
"""Pause after a line that was waited for: more is about to come, as a rule, and taken together it costs a tenth of what it costs alone."""
_WAITED_SECONDS = 0.002
"""Whether a line was there already when it was asked for."""
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
        scribe: Scribe,
        on_dropped: Callable[[int], None],
    ) -> None:
        settings = install.settings
        self._install, self._agent_id, self._ref = install, agent_id, ref
        self._scribe, self._on_dropped = scribe, on_dropped
        self._folders = AgentFolders(settings.data_dir, agent_id)
        self._max_bytes = settings.log_max_mb << 20
        self._writer = SegmentWriter(self._folders.logs, max_bytes=self._max_bytes, keep=settings.log_files)
        self._budget = Budget(anyio.current_time())
        self._batch: list[LogLine] = []
        self._size = 0
        self.writing = anyio.Lock()
        self._taken: list[LogLine] = []
        """What is being written; `_told` dropped lines are told of before it."""
        self._told = 0
        self._failure: OSError | None = None
        self._dropped = 0
        """Lines that were dropped and not yet told of in the segments."""
        self._has_lines = False
        self._written = LOOK_BYTES
        """Bytes since the server's own log was looked at."""

    async def collect(self, *, is_following: bool) -> bool:
        """Read on from where the last collector stood; following, until the instance ends. Tell whether its output is complete.

        Raises `BackendError`; what was read by then is written.
        """
        standing = await anyio.to_thread.run_sync(self._standing)
        if standing.is_complete:
            return True
        resumption = Resumption(standing)
        was_live = is_following or await self._is_live()
        try:
            await self._read(resumption, is_following=is_following)
            is_complete = not (await self._is_live() if is_following else was_live)
            if is_complete and (standing.stream or self._has_lines):
                self._batch.append(self._words(END))
        finally:
            async with shielded(LAST_WRITE):
                await self._scribe.write(self)
        return is_complete

    async def _read(self, resumption: Resumption, *, is_following: bool) -> None:
        output = self._install.backend.logs(self._ref, since=resumption.since, is_following=is_following)
        # An async generator, whose type the contract does not promise.
        async with aclosing(cast("Any", output)) as lines:
            line: LogLine
            asked_at = anyio.current_time()
            async for line in lines:
                has_waited = anyio.current_time() - asked_at > _WAITED_SECONDS
                for fresh in resumption.take(line):
                    await self._take(fresh)
                if is_following and has_waited:
                    await anyio.sleep(GATHER_SECONDS)
                asked_at = anyio.current_time()
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
        self._scribe.note(self)
        if self._size >= BATCH_BYTES:
            await self._scribe.write(self)

    async def _drop(self, size: int) -> None:
        if not self._dropped:
            _log.warning("log_lines_dropped", agent_id=self._agent_id, reason="the agent prints too much")
            await self._scribe.write(self)  # what came before, so that the gap is told of where it is
        self._dropped += 1
        self._on_dropped(1)
        self._size += size
        if self._size >= BATCH_BYTES:
            self._size = 0
            await anyio.sleep(_REST_SECONDS)

    # --- for the scribe ---------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Make up a batch of what was read."""
        self._taken, self._batch, self._size = self._batch, [], 0
        self._told = self._dropped
        return bool(self._taken)

    def store(self) -> None:
        """Write the batch, redacted; look at the server's own log now and then. What goes wrong is settled later."""
        redactor = self._install.redactor
        gap = [self._words(f"{self._told} lines were dropped here")] if self._told else []
        lines = [encode(replace(line, text=line_text(line.text, redactor))) for line in (*gap, *self._taken)]
        if self._written >= LOOK_BYTES:
            cut_server_log(self._folders.state, max_bytes=self._max_bytes)
            self._written = 0
        self._failure = None
        try:
            self._writer.append(lines)
        except OSError as error:
            self._failure = error
        self._written += sum(map(len, lines))

    def settle(self) -> None:
        """Count what could not be written: agents go on without a log where the disk is full, or nothing of theirs is left."""
        lines, error = len(self._taken), self._failure
        self._taken = []
        if error is None:
            self._dropped -= self._told
        elif not isinstance(error, FileNotFoundError):
            if not self._told:
                _log.warning("log_lines_dropped", agent_id=self._agent_id, reason=error.strerror or str(error))
            self._dropped += lines
            self._on_dropped(lines)

    # --- parts --------------------------------------------------------------------------------------------------------------

    def _words(self, text: str) -> LogLine:
        return LogLine(stream=OURS, text=text, at=self._install.now(), instance_id=self._ref.instance_id)

    async def _is_live(self) -> bool:
        try:
            return (await self._install.backend.inspect(self._ref)).is_live
        except InstanceNotFound:
            return False

    def _standing(self) -> Standing:
        return standing_of(segments_in(self._folders.logs), self._ref.instance_id)
