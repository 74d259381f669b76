"""What an agent may reach, kept in force for its present instance."""

from __future__ import annotations

from cnap_runner.egress.rules import Rule
from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Network
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.provisioning.hardware import network_of
from cnap_runner.runner.provisioning.planning import Planner
from cnap_runner.runner.reach import Reach
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


class PermittedReach:
    """Applies the spec's list to instances on the closed network; of others nothing is asked."""

    def __init__(self, reach: Reach, planner: Planner) -> None:
        self._reach = reach
        self._planner = planner

    async def change(self, row: AgentRow) -> None:
        """Let a new list apply at once, in the middle of a turn too. Needs no lease."""
        if network_of(row.spec) is Network.CLOSED and row.runner.instance_id is not None:
            rules = await self._rules(row.spec)
            if rules is not None:
                await self._reach.change(row.runner.instance_id, rules)

    async def keep(self, spec: AgentSpec, live: LiveInstance) -> None:
        """Make sure that the list applies to an instance that is about to be used."""
        if network_of(spec) is Network.CLOSED:
            await self._reach.keep(live.ref, spec.agent_id, await self._rules(spec))

    async def _rules(self, spec: AgentSpec) -> tuple[Rule, ...] | None:
        """Work out what an agent may reach; None where this process cannot: it then leaves it as it is."""
        try:
            return await self._planner.rules(spec)
        except InvalidInput as error:
            _log.warning("rules_not_applied", agent_id=spec.agent_id, reason=error.message)
            return None
