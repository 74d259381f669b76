"""A present instance, brought up to date with its agent's spec; or ended, where only a new one can be."""

from __future__ import annotations

import anyio.to_thread

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.adopting import Adoption
from cnap_runner.runner.instances.ending import Ending
from cnap_runner.runner.instances.roster import Roster
from cnap_runner.runner.lifecycle.limits import limits_of
from cnap_runner.runner.lifecycle.wear import Wear, age_of
from cnap_runner.runner.provisioning.changes import CannotApply, Changes, PendingChange, is_behind, needs_new_instance
from cnap_runner.runner.provisioning.planning import Planner
from cnap_runner.runner.provisioning.workspace_plugins import refuse_plugins
from cnap_runner.runner.recovery.on_disk import OnDisk, workspace_of
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

_USABLE = frozenset({RunnerStatus.READY, RunnerStatus.RUNNING, RunnerStatus.PAUSED})
_NEEDS_NEW = "its settings changed, which only a new container can take up"
_OTHER_WORKSPACE = "its workspace was removed or replaced on the host, while its container had the former one"

_log = get_logger(__name__)


class CatchingUp:
    """Brings present instances up to date. Starts nothing. The caller holds the agent's lease."""

    def __init__(
        self,
        install: Install,
        roster: Roster,
        adoption: Adoption,
        ending: Ending,
        planner: Planner,
    ) -> None:
        self._install = install
        self._roster = roster
        self._adoption = adoption
        self._ending = ending
        self._planner = planner
        self._changes = Changes(install, planner)

    async def catch_up(self, row: AgentRow, *, is_rotation: bool) -> tuple[LiveInstance | None, RunnerRecord]:
        """Give the present instance as the spec wants it; None where there is none, or only a new one can be: then the present one
        is ended. ``is_rotation`` as for `Changes.apply`."""
        record = row.runner
        if record.status not in _USABLE:
            return None, record
        ended = await self._end_outdated(row)
        if ended is not None:
            return None, ended
        live, record = await self._adoption.take_up(row)
        if live is None:
            return None, record
        return await self._apply(live, row.spec, record, is_rotation=is_rotation)

    async def pending(self, row: AgentRow, *, is_in_turn: bool) -> list[PendingChange]:
        """Tell what the present instance does not have yet, as `Changes.pending`. Needs no lease."""
        return await self._changes.pending(row.spec, row.runner, is_in_turn=is_in_turn)

    async def _end_outdated(self, row: AgentRow) -> RunnerRecord | None:
        """End an instance that no change can make what is wanted, or that is worn; None where there is no need."""
        if needs_new_instance(row.runner, self._planner.target(row.spec)):
            # What could not be started here must not end what runs.
            await self._planner.plan(row.spec, generation=row.runner.generation + 1)
            return await self._ending.end_whole(row.runner, reason=_NEEDS_NEW)
        worn = await self._worn(row)
        if worn is None:
            return None
        return await self._ending.end_whole(row.runner, reason=worn.reason, kind=worn.kind, evidence=worn.evidence)

    async def _worn(self, row: AgentRow) -> Wear | None:
        """Tell why the present instance is to be replaced before it is used again, unless no other could be started here."""
        live = self._roster.last_used(row.spec.agent_id)
        is_ours = live is not None and live.ref.instance_id == row.runner.instance_id
        found = live.worn if live is not None and is_ours else None
        found = found or age_of(row.runner, limits_of(self._install, row.spec), self._install)
        if found is not None:
            try:
                await self._planner.plan(row.spec, generation=row.runner.generation + 1)
            except InvalidInput as error:
                _log.warning("worn_instance_kept", agent_id=row.spec.agent_id, error=error.message)
                return None
        return found

    async def _apply(
        self, live: LiveInstance, spec: AgentSpec, record: RunnerRecord, *, is_rotation: bool
    ) -> tuple[LiveInstance | None, RunnerRecord]:
        """Let an instance that serves take up what changed on disk and in the spec; end it where it cannot."""
        seen = await self._on_disk(spec)
        if live.workspace is None:  # another manager started it
            folders = AgentFolders(self._install.settings.data_dir, spec.agent_id)
            live.workspace = await anyio.to_thread.run_sync(workspace_of, folders, live.ref.instance_id)
        if seen.has_replaced(live.workspace):
            return None, await self._ending.end_whole(record, reason=_OTHER_WORKSPACE)
        live.workspace = seen.workspace
        has_read = live.last_turn is not None and live.settings_written_at == seen.settings_written_at
        if not has_read or is_rotation or is_behind(record, self._planner.target(spec)):
            # It is about to read its workspace: for the first time, as far as is known here, or anew.
            await refuse_plugins(spec, self._install.settings.data_dir)
        try:
            settled = await self._changes.apply(live, spec, record, is_rotation=is_rotation)
        except CannotApply as reason:
            return None, await self._ending.end_whole(record, reason=str(reason))
        # Most turns change nothing, and nobody else writes while the lease is held.
        seen = seen if settled is record else await self._on_disk(spec)
        live.settings_written_at = seen.settings_written_at
        return live, settled

    async def _on_disk(self, spec: AgentSpec) -> OnDisk:
        folders = AgentFolders(self._install.settings.data_dir, spec.agent_id)
        return await anyio.to_thread.run_sync(OnDisk.of, folders)
