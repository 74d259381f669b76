"""Instances that are stopped, and what is left of them removed."""

from __future__ import annotations

from datetime import timedelta

import anyio

from cnap_runner.aio.shield import run_shielded
from cnap_runner.errors import BackendError, RunnerError
from cnap_runner.model.instance import InstanceRef
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.chronicle import note_end
from cnap_runner.runner.collectors.following import LogCollectors
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.roster import Roster
from cnap_runner.runner.leasing import leased_if_free
from cnap_runner.runner.reach import Reach
from cnap_runner.telemetry.logging import get_logger

CLEAN_UP = timedelta(seconds=15)
"""For what must be tidied up even if nobody waits for it any more."""

_log = get_logger(__name__)


class Ending:
    """Ends instances. All methods but `remove_stray` and `end_abandoned` need the agent's lease."""

    def __init__(self, install: Install, roster: Roster, reach: Reach, logs: LogCollectors) -> None:
        self._install = install
        self._roster = roster
        self._reach = reach
        self._logs = logs
        self._whole: set[anyio.Event] = set()
        self._begun: dict[str, tuple[DecisionKind, Evidence | None]] = {}
        """Ends that were begun here and are not done, by instance: one that fails is done by a later clean-up, and was meant the same."""

    async def end(
        self,
        record: RunnerRecord,
        *,
        reason: str,
        kind: DecisionKind = DecisionKind.STOPPED,
        evidence: Evidence | None = None,
    ) -> RunnerRecord:
        """Stop the present instance, in whatever status, and say so in the store, and in the agent's log as ``kind``. Its remains stay
        for its logs. One that is stopped already is not written down again."""
        install, was_stopped = self._install, record.status is RunnerStatus.STOPPED
        if record.ref is None and record.instance_id is None:
            return record
        if record.status not in {RunnerStatus.STOPPED, RunnerStatus.STOPPING}:
            record = record.stop_intended(reason=reason, at=install.now())
            await install.save_runner(record)
        if not was_stopped:
            self._begun[record.instance_id or ""] = (kind, evidence)
        await self._stop_all(record)
        if record.status is not RunnerStatus.STOPPED:
            record = record.stopped(reason=reason, at=install.now())
            await install.save_runner(record)
        if not was_stopped:
            await note_end(install, record, kind, reason, evidence)
        self._begun.pop(record.instance_id or "", None)
        return record

    async def _stop_all(self, record: RunnerRecord) -> None:
        """Stop the instance that a record names; every one of the agent's, where it does not tell how to reach it."""
        await self._roster.forget(record.agent_id)
        for ref in [record.ref] if record.ref is not None else await self._refs_of(record.agent_id):
            await self._install.backend.stop(ref, grace=self._install.settings.stop_timeout)
            await self._reach.forget({ref.instance_id})

    async def end_whole(
        self,
        record: RunnerRecord,
        *,
        reason: str,
        kind: DecisionKind = DecisionKind.RECYCLED_CHANGE,
        evidence: Evidence | None = None,
    ) -> RunnerRecord:
        """End the present instance for a change, even if nobody waits for that any more: an end half done would keep its place."""
        limit = self._install.settings.stop_timeout + CLEAN_UP
        ended: list[RunnerRecord] = []
        done = anyio.Event()
        self._whole.add(done)

        async def end() -> None:
            ended.append(await self.end(record, reason=reason, kind=kind, evidence=evidence))

        try:
            await run_shielded(end, limit=limit)
        finally:
            self._whole.discard(done)
            done.set()
        if not ended:
            raise BackendError(f"The instance of agent {record.agent_id} could not be ended within {limit}.")
        return ended[0]

    async def wait_whole(self) -> None:
        """Wait until what `end_whole` has begun is done. Needs no lease."""
        for done in list(self._whole):
            await done.wait()

    async def discard(self, record: RunnerRecord, *, reason: str) -> None:
        """End the present instance and remove all that is left of any; the record says that there is none."""
        ended = await self.end(record, reason=reason)
        await self.remove_all(record.agent_id)
        await self._install.save_runner(ended.removed())

    async def end_abandoned(self) -> None:
        """End what nobody starts or stops any more, because its manager was killed or could not: it would take a place for ever."""
        install = self._install
        for seen in await install.store.list_runners({RunnerStatus.STARTING, RunnerStatus.STOPPING}):
            lease = await install.store.get_lease(seen.agent_id)
            if lease is not None and install.is_alive(lease.manager_id):
                continue
            try:
                async with leased_if_free(install, seen.agent_id, "clean-up") as is_ours:
                    if is_ours:
                        await self._end_if_still(seen)
            except RunnerError as error:
                _log.warning("clean_up_failed", agent_id=seen.agent_id, error=str(error))

    async def _end_if_still(self, seen: RunnerRecord) -> None:
        install = self._install
        record = (await install.store.get_agent(seen.agent_id)).runner
        if record.status is not seen.status or record.instance_id != seen.instance_id:
            return
        await self.remove_all(seen.agent_id)
        if record.status is RunnerStatus.STOPPING:
            # It was healthy: this is only the rest of what somebody had decided.
            kind, evidence = self._begun.pop(record.instance_id or "", (DecisionKind.STOPPED, None))
            reason = record.reason or "somebody stopped it"
            await install.save_runner(record.stopped(reason=reason, at=install.now()).removed())
        else:
            kind, evidence = DecisionKind.STOPPED, None
            reason = f"its manager ended while it was {seen.status}"
            await install.save_runner(record.failed(reason=reason, at=install.now()).removed())
        await note_end(install, record, kind, reason, evidence)

    async def remove_all(self, agent_id: str) -> None:
        """Remove every instance of an agent from the backend."""
        await self._roster.forget(agent_id)
        for ref in await self._refs_of(agent_id):
            await self._remove(agent_id, ref)

    async def remove_remains(self, record: RunnerRecord) -> None:
        """End and remove what is left of earlier instances: two servers must never share one state folder.

        The record names it, unless whoever created it ended before it could be written; a first instance has none before it.
        """
        await self._roster.forget(record.agent_id)
        if record.ref is not None:
            await self._remove(record.agent_id, record.ref)
        elif record.generation > 0:
            await self.remove_all(record.agent_id)

    async def remove_stray(self, ref: InstanceRef) -> None:
        """End and remove one instance that is no agent's present one, at once: it may have the same files open as another one."""
        await self._install.backend.remove(ref, grace=self._install.settings.stop_timeout)
        await self._reach.forget({ref.instance_id})

    async def _remove(self, agent_id: str, ref: InstanceRef) -> None:
        """End and remove an instance, after its last words were collected."""
        install = self._install
        await install.backend.stop(ref, grace=install.settings.stop_timeout)
        await self._logs.complete(agent_id, ref)
        await install.backend.remove(ref, grace=install.settings.stop_timeout)
        _log.info("instance_removed", agent_id=agent_id, instance_id=ref.instance_id)
        await self._reach.forget({ref.instance_id})
        # It opens nothing any more; else they only grew in number.
        install.redactor.remove(install.password_of(ref.instance_id))

    async def _refs_of(self, agent_id: str) -> list[InstanceRef]:
        seen = await self._install.backend.list_instances(self._install.install_id)
        return [observation.ref for observation in seen if observation.agent_id == agent_id]
