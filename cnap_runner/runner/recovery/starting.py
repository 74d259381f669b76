"""Starts that are tried again where that may help, and refused where an agent's instances crash again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from cnap_runner.aio.retry import Backoff, Failure, retried
from cnap_runner.errors import (
    EngineUnavailable,
    InstanceExited,
    InstanceStartFailed,
    OutOfMemory,
    RunnerError,
    ServerNotReady,
    ServerUnreachable,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note
from cnap_runner.runner.recovery.crashes import refuse_crash_loop
from cnap_runner.store.base import AgentRow

Started = TypeVar("Started")
Start = Callable[[AgentSpec, RunnerRecord], Awaitable[Started]]
"""Makes one try to start an instance, and leaves the record as failed where it fails."""

_PASSING = (EngineUnavailable, InstanceStartFailed, InstanceExited, ServerNotReady, ServerUnreachable)


def is_passing(error: BaseException) -> bool:
    """Whether a start that failed like this may do better the next time: the engine, the container or its server did not come up.

    What is wrong with the settings, the image, the host's room or the number of places does not mend itself within seconds, nor does
    a memory limit that is too small.
    """
    return isinstance(error, _PASSING) and not isinstance(error, OutOfMemory)


class PatientStart(Generic[Started]):
    """Starts instances, with as many tries as the settings give. The caller holds the agent's lease."""

    def __init__(self, install: Install, start: Start[Started]) -> None:
        settings = install.settings
        self._install = install
        self._start = start
        self._backoff = Backoff(settings.max_retries, settings.retry_backoff, settings.retry_backoff_max)

    async def start(self, row: AgentRow, record: RunnerRecord) -> Started:
        """Start an instance, of a record that may be newer than the row's.

        Raises `CrashLooping` before a try, and the last try's error; the record says why, then.
        """
        tries = 0

        async def once() -> Started:
            nonlocal tries
            # A try that failed left a record of its own.
            known = await self._install.store.get_agent(row.spec.agent_id) if tries else replace(row, runner=record)
            await refuse_crash_loop(self._install, known)
            tries += 1
            return await self._start(row.spec, known.runner)

        try:
            started = await retried(once, backoff=self._backoff, is_passing=is_passing, failed=self._tell_of(row))
        except RunnerError as error:
            if is_passing(error):
                await self._give_up(row.spec.agent_id, error, tries=tries)
            raise
        if tries > 1:
            reason = f"its container started at try {tries}"
            await note(
                self._install, row.spec.agent_id, DecisionKind.RECOVERED, reason, {"cause": "start", "tries": tries}
            )
        return started

    def _tell_of(self, row: AgentRow) -> Callable[[Failure], Awaitable[None]]:
        async def tell(failure: Failure) -> None:
            error = failure.error
            message = error.message if isinstance(error, RunnerError) else repr(error)
            evidence: Evidence = {
                "error": error.code if isinstance(error, RunnerError) else "bug",
                "next_try": failure.tries + 1,
                "pause_seconds": round(failure.pause.total_seconds(), 2),
            }
            reason = f"its start failed and is tried again: {message}"
            await note(self._install, row.spec.agent_id, DecisionKind.RETRIED, reason, evidence)

        return tell

    async def _give_up(self, agent_id: str, error: RunnerError, *, tries: int) -> None:
        """Say why nothing more is tried for now. The next run is somebody who asks again."""
        install = self._install
        reason = f"its container could not be started in {tries} {'try' if tries == 1 else 'tries'}: {error.message}"
        record = (await install.store.get_agent(agent_id)).runner
        if record.status is not RunnerStatus.FAILED:
            await install.save_runner(record.failed(reason=install.redactor.redact(error.message), at=install.now()))
        await note(install, agent_id, DecisionKind.GAVE_UP, reason, {"tries": tries, "error": error.code})
