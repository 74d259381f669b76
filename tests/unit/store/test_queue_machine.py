"""Any order of calls by several managers, some of which die: never two leases, and the ledger's order is kept."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cnap_runner.errors import LeaseLost
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import Outcome, RunError, RunRecord, RunResult, RunState
from cnap_runner.store.base import Admission, NewRun
from cnap_runner.store.sql import SqlStore

NOW = datetime(2026, 1, 2, tzinfo=UTC)
AGENTS = ("alice", "bob")
MOST_MANAGERS = 6
"""More deaths would leave only runs that nobody drives."""
agents = st.sampled_from(AGENTS)
picks = st.integers(0, 7)


class Managers(RuleBasedStateMachine):
    """What managers believe, next to the store they share."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.Runner()
        self.store = SqlStore(Path(shutil.copy(self.template, self.folder / "runner.db")))
        self.loop.run(self.store.open())
        self.alive = [f"m{n}" for n in range(3)]
        self.born = len(self.alive)
        self.runs: dict[str, RunRecord] = {}
        self.holders: dict[str, list[tuple[str, str]]] = {agent_id: [] for agent_id in AGENTS}
        self.sent: list[str] = []
        self.remembered = False

    @initialize()
    def know_agents(self) -> None:
        for agent_id in AGENTS:
            self.loop.run(self.store.put_agent(AgentSpec(agent_id=agent_id, model="f/m"), at=NOW))
        for who in range(3):
            self.enter("alice", who, None)

    def teardown(self) -> None:
        self.loop.run(self.store.aclose())
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- what managers do

    @rule(agent_id=agents, who=picks, key=st.sampled_from([None, None, "k1", "k2"]))
    def enter(self, agent_id: str, who: int, key: str | None) -> None:
        run_id = f"r{len(self.runs)}"
        new = NewRun(run_id, agent_id, "main", self._living(who), "print", key, None, NOW)
        entry = self.loop.run(self.store.enter_run(new, must_be_alone=False))
        admission, run = entry.admission, entry.run
        if admission is Admission.ENTERED:
            assert all(run.place > other.place for other in self.runs.values()), "it is at the end of the queue"
            self.runs[run.run_id] = run
        else:
            assert run == self.runs[run.run_id]

    @precondition(lambda self: self._driven())
    @rule(which=picks)
    def claim(self, which: int) -> None:
        run = self._pick(self._driven(), which)
        if run.state is not RunState.QUEUED:
            with pytest.raises(LeaseLost):
                self.loop.run(self.store.claim_turn(run, at=NOW, is_alive=self._is_alive))
            return
        claimed = self.loop.run(self.store.claim_turn(run, at=NOW, is_alive=self._is_alive))
        mine = (run.owner, f"run:{run.run_id}")
        others = [holder for holder in self.holders[run.agent_id] if holder != mine]
        assert claimed == (self._is_head(run) and not others)
        if claimed:
            self.holders[run.agent_id] = [mine]
            self.runs[run.run_id] = replace(run, state=RunState.STARTING)

    @precondition(lambda self: self._driven())
    @rule(which=picks)
    def go_on(self, which: int) -> None:
        run = self._pick(self._driven(), which)
        if run.state is RunState.STARTING:
            answer = self.loop.run(
                self.store.mark_sending(run, session_id="s", instance_id="i", after_message_id=None, at=NOW)
            )
            assert isinstance(answer, RunRecord)
            self.runs[run.run_id] = answer
            self.sent.append(f"{run.run_id}@{run.place}")
        elif run.state is RunState.SENDING:
            self.runs[run.run_id], _ = self.loop.run(self.store.mark_running(run))
        else:
            with pytest.raises(LeaseLost):
                self.loop.run(self.store.mark_running(run))

    @precondition(lambda self: self._driven())
    @rule(which=picks)
    def finish(self, which: int) -> None:
        run = self._pick(self._driven(), which)
        error = None if run.state.is_sent else RunError("not_sent", "given up", retryable=True)
        outcome = Outcome.FAILED if error else Outcome.SUCCEEDED
        result = RunResult(run.run_id, run.agent_id, "main", outcome, NOW, timedelta(0), error=error)
        if run.state is RunState.ENDED:
            with pytest.raises(LeaseLost):
                self.loop.run(self.store.finish_run(run, result, runner=None, at=NOW))
            return
        self.runs[run.run_id] = self.loop.run(self.store.finish_run(run, result, runner=None, at=NOW))
        self._no_longer(run.agent_id, run.owner, f"run:{run.run_id}")

    @precondition(lambda self: self.runs)
    @rule(which=picks, who=picks)
    def take_over(self, which: int, who: int) -> None:
        run, manager_id = self._pick([*self.runs.values()], which), self._living(who)
        taken = self.loop.run(self.store.take_over(run, manager_id=manager_id, at=NOW, is_alive=self._is_alive))
        may = self._is_head(run) and run.owner not in self.alive and not self.holders[run.agent_id]
        assert (taken is not None) == may
        if taken is not None:
            assert taken == replace(run, owner=manager_id)
            self.runs[run.run_id] = taken
            self.holders[run.agent_id] = [(manager_id, f"run:{run.run_id}")]

    @rule(agent_id=agents, who=picks)
    def change(self, agent_id: str, who: int) -> None:
        manager_id = self._living(who)
        got = self.loop.run(self.store.acquire_lease(agent_id, manager_id, "change", at=NOW, is_alive=self._is_alive))
        assert got == (not self.holders[agent_id])
        if got:
            self.holders[agent_id] = [(manager_id, "change")]

    @precondition(lambda self: any(purpose == "change" for held in self.holders.values() for _, purpose in held))
    @rule(agent_id=agents)
    def change_done(self, agent_id: str) -> None:
        for manager_id, purpose in self.holders[agent_id]:
            if purpose == "change":
                self.loop.run(self.store.release_lease(agent_id, manager_id))
                self._no_longer(agent_id, manager_id, purpose)

    @precondition(lambda self: self.born < MOST_MANAGERS)
    @rule(who=picks)
    def die(self, who: int) -> None:
        """A manager is killed, and another is born."""
        dead = self._living(who)
        self.alive.remove(dead)
        self.remembered = True
        for agent_id, holders in self.holders.items():
            self.holders[agent_id] = [holder for holder in holders if holder[0] != dead]
        self.alive.append(f"m{self.born}")
        self.born += 1

    @precondition(lambda self: self.remembered)
    @rule()
    def forget(self) -> None:
        self.loop.run(self.store.forget_dead_managers(self._is_alive))
        self.remembered = False

    # --- what must hold

    @invariant()
    def the_store_knows_what_the_managers_know(self) -> None:
        for agent_id in AGENTS:
            waiting = [
                run for run in self.runs.values() if run.agent_id == agent_id and run.state is not RunState.ENDED
            ]
            assert self.loop.run(self.store.queue_of(agent_id)) == sorted(waiting, key=lambda run: run.place)
            lease = self.loop.run(self.store.get_lease(agent_id))
            present = [] if lease is None or lease.manager_id not in self.alive else [(lease.manager_id, lease.purpose)]
            assert present == self.holders[agent_id]

    @invariant()
    def one_run_of_an_agent_is_under_way_at_most_and_it_is_the_head(self) -> None:
        for agent_id in AGENTS:
            queue = self.loop.run(self.store.queue_of(agent_id))
            assert all(run.state is RunState.QUEUED for run in queue[1:])

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        assert len(self.sent) == len(set(self.sent))

    # --- helpers

    def _is_alive(self, manager_id: str) -> bool:
        return manager_id in self.alive

    def _living(self, who: int) -> str:
        return self.alive[who % len(self.alive)]

    def _driven(self) -> list[RunRecord]:
        return [run for run in self.runs.values() if run.owner in self.alive]

    @staticmethod
    def _pick(runs: list[RunRecord], which: int) -> RunRecord:
        return runs[which % len(runs)]

    def _is_head(self, run: RunRecord) -> bool:
        unfinished = [r for r in self.runs.values() if r.agent_id == run.agent_id and r.state is not RunState.ENDED]
        return run.state is not RunState.ENDED and run.place == min(r.place for r in unfinished)

    def _no_longer(self, agent_id: str, manager_id: str, purpose: str) -> None:
        self.holders[agent_id] = [h for h in self.holders[agent_id] if h != (manager_id, purpose)]


def test_never_two_leases_and_the_order_is_kept(template: Path) -> None:
    """Whatever managers do and whenever they die, the store and what they believe agree."""
    machine = type("Machine", (Managers,), {"template": template})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
