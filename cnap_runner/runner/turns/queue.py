"""A run's place in its agent's queue, and the lease that comes with the head of it."""

from __future__ import annotations

from cnap_runner.errors import RunAborted, RunnerError
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.runner.install import Install
from cnap_runner.runner.turns.abandoned import AbandonedRuns, Attempt
from cnap_runner.runner.turns.active import ActiveRun, ActiveRuns
from cnap_runner.store.base import Wish

LOOK_AGAIN_SECONDS = 0.1
"""How soon a change made by another process is noticed by one that waits."""


class TurnQueue:
    """Waits until a run is at the head of its agent's queue and has the agent's lease."""

    def __init__(self, install: Install, active: ActiveRuns, abandoned: AbandonedRuns) -> None:
        self._install = install
        self._active = active
        self._abandoned = abandoned

    async def wait_turn(self, mine: ActiveRun) -> None:
        """Return holding the lease, the entry in state starting. Raises `RunAborted` when a wish means this run."""
        install, run = self._install, mine.run
        while not await install.store.claim_turn(run, at=install.now(), is_alive=install.is_alive):
            await self._wait_for_head(run)

    async def _wait_for_head(self, run: RunRecord) -> None:
        """Wait, reading only, until this run is at the head; then the lease may still be somebody's for a change.

        Raises what the settlement of an abandoned run before this one failed with.
        """
        store, attempt = self._install.store, Attempt()
        while True:
            await self._active.wait_for_change(run.agent_id, at_most=LOOK_AGAIN_SECONDS)
            attempt.check()
            if wishes := await store.wishes_for(run):
                raise aborted_by(wishes[0])
            queue = await store.queue_of(run.agent_id)
            if not queue or queue[0].run_id == run.run_id:
                return
            if self._abandoned.is_abandoned(queue[0]):
                attempt = self._abandoned.begin(run.agent_id)

    async def wait_ended(self, run_id: str, agent_id: str) -> RunResult:
        """Wait until an entry has ended, whoever drives it, and return its result. Raises what its settlement failed with."""
        attempt = Attempt()
        while True:
            run = await self._install.store.get_run(run_id)
            if run.state is RunState.ENDED:
                if run.result is None:
                    raise RunnerError(f"Run {run_id} ended without a result.")
                return run.result
            active = self._active.get(run_id)
            if active is not None:
                await active.ended.wait()
                continue
            attempt.check()
            attempt = self._abandoned.begin(agent_id)
            await self._active.wait_for_change(agent_id, at_most=LOOK_AGAIN_SECONDS)


def aborted_by(wish: Wish) -> RunAborted:
    """Say that a wish ended a run before its prompt was sent."""
    return RunAborted(f"The run was ended before its prompt was sent: {wish.words}.")
