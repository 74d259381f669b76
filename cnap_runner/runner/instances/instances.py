"""A ready instance for an agent whose lease is held: used as it is, adopted, or newly started.

A start always makes a new instance, with a new id and generation, and removes the remains of the one before. So an instance lives
once, and a ledger entry that names one says exactly which life of the server its prompt was sent to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnap_runner.model.instance import InstanceRef
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.boot import Booter, LiveInstance
from cnap_runner.runner.collectors.following import LogCollectors
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.adopting import Adoption
from cnap_runner.runner.instances.catching_up import CatchingUp
from cnap_runner.runner.instances.ending import Ending
from cnap_runner.runner.instances.reaching import PermittedReach
from cnap_runner.runner.instances.roster import Roster
from cnap_runner.runner.instances.starting import Starting
from cnap_runner.runner.lifecycle.places import Places
from cnap_runner.runner.lifecycle.steps import LifeSteps
from cnap_runner.runner.provisioning.changes import PendingChange
from cnap_runner.runner.provisioning.planning import Planner
from cnap_runner.runner.reach import Reach
from cnap_runner.runner.recovery.starting import PatientStart
from cnap_runner.runner.secrecy.known import KnownSecrets
from cnap_runner.store.base import AgentRow


class Instances:
    """The instances this manager talks to. All methods need the agent's lease, unless they say otherwise."""

    def __init__(self, install: Install, template: Mapping[str, Any], logs: LogCollectors) -> None:
        reach = Reach(install)
        self._roster = Roster(logs)
        self._booter = Booter(install, reach)
        self.planner = Planner(install, template)
        self.known_secrets = KnownSecrets(install, self.planner)
        self._reach = PermittedReach(reach, self.planner)
        self._ending = Ending(install, self._roster, reach, logs)
        self._adoption = Adoption(
            install, self._roster, self._booter, known_secrets=self.known_secrets, reach=self._reach
        )
        self._catching_up = CatchingUp(install, self._roster, self._adoption, self._ending, self.planner)
        self.steps = LifeSteps(install, self)
        places = Places(install, self.steps, clean_up=self.end_abandoned)
        starting = Starting(
            install, self._roster, self._booter, planner=self.planner, places=places, ending=self._ending
        )
        self._patient = PatientStart(install, starting.start)

    # --- told about them; no lease needed -------------------------------------------------------------------------------

    def note_death(self, instance_id: str, reason: str, *, is_out_of_memory: bool = False) -> None:
        """Tell whoever talks to this instance, or starts it, that it ended."""
        self._roster.note_death(instance_id, reason, is_out_of_memory=is_out_of_memory)

    def note_freeze(self, instance_id: str, *, is_frozen: bool) -> None:
        """Remember that an instance was frozen or thawed: one that is frozen is looked at, and thawed, before its next use."""
        self._roster.note_freeze(instance_id, is_frozen=is_frozen)

    def last_used(self, agent_id: str) -> LiveInstance | None:
        """Give the instance this manager used last for an agent; whether it still is the agent's, only the lease's holder knows."""
        return self._roster.last_used(agent_id)

    async def pending(self, row: AgentRow, *, is_in_turn: bool) -> list[PendingChange]:
        """Tell what the present instance does not have yet, as `Changes.pending`."""
        return await self._catching_up.pending(row, is_in_turn=is_in_turn)

    async def change_reach(self, row: AgentRow) -> None:
        """Let a new list of what an agent may reach apply at once, in the middle of a turn too."""
        await self._reach.change(row)

    # --- using and starting ---------------------------------------------------------------------------------------------

    async def ensure(self, row: AgentRow) -> tuple[LiveInstance, RunnerRecord]:
        """Give a ready instance that fits the agent's spec, and the runner's record as it then is. A start is tried as often as the settings
        say; raises `CrashLooping` where the agent's instances crash again and again, else the error of the last try."""
        live, record = await self.catch_up(row)
        return (live, record) if live is not None else await self._patient.start(row, record)

    async def catch_up(self, row: AgentRow, *, is_rotation: bool = False) -> tuple[LiveInstance | None, RunnerRecord]:
        """Bring the present instance up to date with the agent's spec; None where there is none, or only a new one can be: then the
        present one is ended. Starts nothing. ``is_rotation`` as for `Changes.apply`."""
        return await self._catching_up.catch_up(row, is_rotation=is_rotation)

    async def use_as_it_is(self, record: RunnerRecord) -> LiveInstance | None:
        """Give the present instance if it lives and answers, whatever its spec; None otherwise. Starts nothing."""
        return await self._adoption.use(record) if record.ref is not None else None

    async def distrust(self, agent_id: str) -> None:
        """Believe nothing of what is remembered about an agent's instance: look at it anew when it is next needed."""
        await self._roster.forget(agent_id)

    # --- ending ---------------------------------------------------------------------------------------------------------

    async def end(
        self,
        record: RunnerRecord,
        *,
        reason: str,
        kind: DecisionKind = DecisionKind.STOPPED,
        evidence: Evidence | None = None,
    ) -> RunnerRecord:
        """Stop the present instance, as `Ending.end`."""
        return await self._ending.end(record, reason=reason, kind=kind, evidence=evidence)

    async def end_whole(
        self, record: RunnerRecord, *, reason: str, kind: DecisionKind, evidence: Evidence | None = None
    ) -> RunnerRecord:
        """Stop the present instance, as `Ending.end_whole`: even if nobody waits for that any more."""
        return await self._ending.end_whole(record, reason=reason, kind=kind, evidence=evidence)

    async def wait_whole(self) -> None:
        """Wait until the ends that `end_whole` has begun are done. Needs no lease."""
        await self._ending.wait_whole()

    async def discard(self, record: RunnerRecord, *, reason: str) -> None:
        """End the present instance and remove all that is left of any; the record says that there is none."""
        await self._ending.discard(record, reason=reason)

    async def end_abandoned(self) -> None:
        """End what a manager that was killed had begun to start or stop. Takes the leases it needs itself."""
        await self._ending.end_abandoned()

    async def remove_stray(self, ref: InstanceRef) -> None:
        """End and remove one instance that is no agent's present one, at once. Needs no lease."""
        await self._ending.remove_stray(ref)

    async def aclose(self) -> None:
        """Close all streams and clients. Instances stay as they are."""
        await self._roster.aclose()
