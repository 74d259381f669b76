"""Reading an agent's output: first what was collected, then what its present instance's engine has besides, or goes on to say.

What is collected may lag behind by a moment, whichever process collects it; so the engine is asked for the rest, from the last collected
line on. Nothing is there twice, nothing is missing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, cast

import anyio
import anyio.to_thread

from cnap_runner.errors import BackendError, InstanceNotFound, InvalidInput, RunNotFound
from cnap_runner.model.instance import InstanceRef, LogLine
from cnap_runner.runner.collectors.line_text import line_text
from cnap_runner.runner.collectors.resumption import Resumption
from cnap_runner.runner.collectors.segments import (
    END,
    OURS,
    Segment,
    Standing,
    newest_first,
    oldest_first,
    segments_in,
    standing_of,
)
from cnap_runner.runner.collectors.timeline import Timeline
from cnap_runner.runner.install import Install
from cnap_runner.runner.workspaces.folders import AgentFolders

BATCH = 1000
"""Lines that one visit of a thread reads."""
RUNS_KNOWN = 1000
RUNS_LOOKED_AT = 20
_FRESH = timedelta(seconds=0.2)
"""How old what is known of an agent's runs may be, for a line that came just now."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines are wanted."""

    tail: int | None = None
    """Only the last so many of those that are wanted otherwise."""
    since: datetime | None = None
    pattern: re.Pattern[str] | None = None
    run_id: str | None = None

    @staticmethod
    def of(
        *, tail: int | None, since: datetime | timedelta | None, grep: str | None, run: str | None, now: datetime
    ) -> LogQuery:
        """Check what somebody asks for. Raises `InvalidInput`."""
        if tail is not None and tail < 0:
            raise InvalidInput("tail: it is a number of lines, 0 or more.")
        if isinstance(since, datetime) and since.tzinfo is None:
            raise InvalidInput("since: a point in time needs its zone, for example datetime.now(UTC).")
        try:
            pattern = None if grep is None else re.compile(grep)
        except re.error as error:
            raise InvalidInput(f"grep: it is no regular expression: {error}.") from None
        return LogQuery(tail, now - since if isinstance(since, timedelta) else since, pattern, run)

    def wants(self, line: LogLine) -> bool:
        """Whether a line is one of them, whose text is redacted and whose run is known."""
        return (
            (self.since is None or (line.at is not None and line.at >= self.since))
            and (self.run_id is None or line.run_id == self.run_id)
            and (self.pattern is None or self.pattern.search(line.text) is not None)
        )


class LogReader:
    """Reads one agent's output for one caller. Used once."""

    def __init__(self, install: Install, agent_id: str, ref: InstanceRef | None, query: LogQuery) -> None:
        """``ref`` names the present instance, live or not; None where there is none."""
        self._install, self._agent_id, self._ref, self._query = install, agent_id, ref, query
        self._folder = AgentFolders(install.settings.data_dir, agent_id).logs
        self._timeline = Timeline([])
        self._known_at = datetime.min.replace(tzinfo=UTC)

    async def lines(self, *, is_following: bool) -> AsyncGenerator[LogLine, None]:
        """Yield the wanted lines, oldest first; following, until the present instance ends.

        Raises `InstanceNotFound` where there is nothing at all, `RunNotFound` for a run of somebody else. Where the engine cannot be
        asked, what was collected is given, and a line of ours says so.
        """
        await self._look_up_runs(RUNS_KNOWN)
        may_come = await self._may_come()
        is_following = is_following and may_come
        segments = await _in_thread(segments_in, self._folder)
        if self._ref is None and not segments:
            raise InstanceNotFound(
                f"Agent {self._agent_id} has no output yet.", hint="Its first run starts an instance."
            )
        if self._query.tail is None:
            async for line in self._all(segments, is_following=is_following):
                yield line
        else:
            async for line in self._last(segments, self._query.tail, is_following=is_following):
                yield line

    # --- in which order ---------------------------------------------------------------------------------------------------

    async def _all(self, segments: Sequence[Segment], *, is_following: bool) -> AsyncGenerator[LogLine, None]:
        standing = await self._standing(segments)
        kept = self._kept(oldest_first(await _in_thread(self._needed, segments)))
        while batch := await _in_thread(_next_of, kept):
            for line in batch:
                yield line
        async for line in self._fresh(standing, is_following=is_following):
            if (wanted := await self._finished(line)) is not None:
                yield wanted

    async def _last(
        self, segments: Sequence[Segment], count: int, *, is_following: bool
    ) -> AsyncGenerator[LogLine, None]:
        standing = await self._standing(segments)
        fresh: deque[LogLine] = deque(maxlen=count)
        async for line in self._fresh(standing, is_following=False):
            if line.stream != OURS:
                standing = standing.after(line)
            if (wanted := await self._finished(line)) is not None:
                fresh.append(wanted)
        older = self._kept(newest_first(segments))
        for line in reversed(await _in_thread(list, islice(older, count - len(fresh)))):
            yield line
        for line in fresh:
            yield line
        if is_following:
            async for line in self._fresh(standing, is_following=True):
                if (wanted := await self._finished(line)) is not None:
                    yield wanted

    async def _fresh(self, standing: Standing, *, is_following: bool) -> AsyncGenerator[LogLine, None]:
        """Ask the engine for what comes after the last collected line. Where the instance was removed meanwhile, all it said is collected."""
        if self._ref is None or standing.is_complete:
            return
        resumption = Resumption(standing)
        output = self._install.backend.logs(self._ref, since=resumption.since, is_following=is_following)
        try:
            # An async generator, whose type the contract does not promise.
            async with aclosing(cast("Any", output)) as lines:
                line: LogLine
                async for line in lines:
                    for fresh in resumption.take(line):
                        standing = standing.after(fresh)
                        yield fresh
            for fresh in resumption.rest():
                yield fresh
        except InstanceNotFound:
            collected = _behind(
                standing, self._ref.instance_id, oldest_first(await _in_thread(segments_in, self._folder))
            )
            while batch := await _in_thread(_next_of, collected):
                for line in batch:
                    yield line
        except BackendError as error:
            yield LogLine(
                stream=OURS, text=f"the engine cannot be asked for more: {error.message}", at=self._install.now()
            )

    # --- which lines ------------------------------------------------------------------------------------------------------

    def _kept(self, lines: Iterator[LogLine]) -> Iterator[LogLine]:
        """Finish collected lines and give the wanted ones. Blocks."""
        for line in lines:
            if line.stream == OURS and line.text == END:
                continue
            # It was cut when it was written; secrets may have become known since.
            finished = self._dressed(line, self._install.redactor.redact(line.text))
            if self._query.wants(finished):
                yield finished

    async def _finished(self, line: LogLine) -> LogLine | None:
        """Finish a line that came just now; None where it is not wanted. What this manager itself says is always wanted."""
        now = self._install.now()
        if line.at is not None and line.at > self._known_at and now - self._known_at > _FRESH:
            await self._look_up_runs(RUNS_LOOKED_AT)
        instance_id = None if self._ref is None else self._ref.instance_id
        finished = self._dressed(replace(line, instance_id=instance_id), line_text(line.text, self._install.redactor))
        return finished if line.stream == OURS or self._query.wants(finished) else None

    def _dressed(self, line: LogLine, text: str) -> LogLine:
        return replace(line, text=text, run_id=self._timeline.run_at(line.at))

    def _needed(self, segments: Sequence[Segment]) -> Sequence[Segment]:
        """Leave out segments of which all is older than what is wanted. Blocks."""
        since = self._query.since
        if since is None:
            return segments
        for index in range(len(segments) - 1, 0, -1):
            first = next(oldest_first(segments[index : index + 1]), None)
            if first is not None and first.at is not None and first.at < since:
                return segments[index:]
        return segments

    async def _standing(self, segments: Sequence[Segment]) -> Standing:
        if self._ref is None:
            return Standing()
        found: Standing = await _in_thread(standing_of, segments, self._ref.instance_id)
        return found

    # --- runs -------------------------------------------------------------------------------------------------------------

    async def _look_up_runs(self, limit: int) -> None:
        now = self._install.now()
        self._timeline = Timeline(await self._install.store.list_runs(self._agent_id, limit=limit))
        self._known_at = now

    async def _may_come(self) -> bool:
        """Whether more of what is wanted can come: a run that has ended says nothing more."""
        if self._query.run_id is None:
            return True
        run = await self._install.store.get_run(self._query.run_id)
        if run.agent_id != self._agent_id:
            raise RunNotFound(f"Agent {self._agent_id} has no run {run.run_id!r}.")
        return run.ended_at is None


def _behind(standing: Standing, instance_id: str, lines: Iterator[LogLine]) -> Iterator[LogLine]:
    """Give what was collected of an instance behind the last line that was read. Blocks."""
    resumption = Resumption(standing)
    for line in lines:
        is_older = line.at is not None and resumption.since is not None and line.at < resumption.since
        if line.instance_id != instance_id or is_older:
            continue
        if line.stream != OURS:
            yield from resumption.take(line)
        elif line.text != END and resumption.is_past:
            yield line
    yield from resumption.rest()


def _next_of(lines: Iterator[LogLine]) -> list[LogLine]:
    return list(islice(lines, BATCH))


async def _in_thread(act: Callable[..., Any], *arguments: object) -> Any:
    return await anyio.to_thread.run_sync(act, *arguments)
