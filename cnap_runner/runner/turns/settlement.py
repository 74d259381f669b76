"""Ledger entries that nobody drives any more: find out what became of them, and end them with the truth.

The rules (DESIGN §4): nothing is sent twice, nothing finished is lost. An entry before ``sending`` was not sent. For one after it the
session is read: a newer user message means it was sent, and its answers say how it ended. Absence proves nothing while the instance
it was sent to lives, because the request may still be on its way; so after a while that instance is ended, and then it does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import anyio

from cnap_runner.errors import RunnerError, RunnerNotFound, ServerError, ServerUnreachable, SessionNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.events import RunEvent
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.run import Outcome, RunError, RunRecord, RunResult
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.sessions import read_turn, was_sent
from cnap_runner.opencode.turn import Turn, TurnEnd
from cnap_runner.opencode.verdict import judge
from cnap_runner.runner.answers.answering import Answering
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.journal import note
from cnap_runner.runner.turns.active import ActiveRun, ActiveRuns, Interruption
from cnap_runner.runner.turns.ending import interrupted_by, result_of, turn_timing, wind_up
from cnap_runner.runner.turns.resuming import STOPPED, GoingOn, Resumption
from cnap_runner.store.base import AgentRow, Wish
from cnap_runner.telemetry.logging import get_logger

TRIES = 3

ARRIVAL_SECONDS = 5.0
"""How long a request whose sender died may still take to arrive. Between two processes of one host it takes milliseconds."""

_log = get_logger(__name__)

_NOT_SENT = TurnEnd(
    outcome=Outcome.FAILED,
    error=RunError(code="not_sent", message="The manager ended before the prompt was sent.", retryable=True),
)
_NOT_TOLD = TurnEnd(
    outcome=Outcome.FAILED,
    error=RunError(
        code="interrupted", message="The turn was interrupted, and so was telling the agent to go on.", retryable=True
    ),
)
_NOT_BEGUN = TurnEnd(
    outcome=Outcome.FAILED,
    error=RunError(
        code="interrupted", message="The turn stopped before its answer began: its server was ended.", retryable=True
    ),
)
_UNREADABLE = TurnEnd(
    outcome=Outcome.UNKNOWN,
    error=RunError(code="unknown", message="The session this run was sent to is gone; how it ended cannot be known."),
)


class Settlement:
    """Ends abandoned entries. Only the head of an agent's queue can be settled, and with its lease."""

    def __init__(self, install: Install, instances: Instances, active: ActiveRuns) -> None:
        self._install = install
        self._instances = instances
        self._active = active
        self._resumption = Resumption(install, instances)

    async def settle(self, run: RunRecord) -> RunResult | None:
        """Settle one entry. None where somebody else has the lease, or it ended meanwhile; the entry is as it was, then."""
        install = self._install
        active = await self._take(run)
        if active is None:
            return None
        try:
            end = await self._go_on(active, await self._find_out(active))
            result = result_of(active.run, end, install)
            active.run = await install.store.finish_run(active.run, result, runner=None, at=install.now())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await install.store.release_lease(run.agent_id, install.manager_id)
            raise
        finally:
            self._active.remove(active)
        error = None if result.error is None else result.error.code
        evidence = {"run_id": run.run_id, "outcome": str(result.outcome), "error": error, "left_by": run.owner}
        reason = "the manager that drove a run had ended, and the session told how the run did"
        await note(install, run.agent_id, DecisionKind.SETTLED, reason, evidence)
        return result

    async def _take(self, run: RunRecord) -> ActiveRun | None:
        """Make the entry ours, with the lease, unless somebody drives it by now."""
        install = self._install
        async with self._active.entering.holding(run.agent_id):
            if self._active.get(run.run_id) is not None:
                return None
            taken = await install.store.take_over(
                run, manager_id=install.manager_id, at=install.now(), is_alive=self._is_driven
            )
            return None if taken is None else self._active.add(taken, has_caller=False)

    def _is_driven(self, manager_id: str) -> bool:
        """Whether this manager's entries have coroutines. Ours that come here have none: nobody registered them."""
        return manager_id != self._install.manager_id and self._install.is_alive(manager_id)

    async def _find_out(self, active: ActiveRun) -> TurnEnd:
        """Tell how the entry's turn ended; an instance that dies while it is read is followed by another."""
        run = active.run
        if active.never_left or not run.state.is_sent or run.session_id is None:
            return _NOT_SENT
        for _ in range(TRIES):
            try:
                row = await self._install.store.get_agent(run.agent_id)
                return await self._read(active, row)
            except (RunnerNotFound, SessionNotFound):
                return _UNREADABLE
            except ServerUnreachable:
                await self._instances.distrust(run.agent_id)
        raise ServerUnreachable(f"The server of agent {run.agent_id} ends again and again while its session is read.")

    async def _read(self, active: ActiveRun, row: AgentRow) -> TurnEnd:
        """Read from the session how the turn ended, in the instance it was sent to or a later one."""
        run, record = active.run, row.runner
        if record.instance_id == run.instance_id:
            live = await self._instances.use_as_it_is(record)
            if live is not None:
                if await self._arrived(live.client, run):
                    return await self._follow(active, live, row.spec)
                record = await self._instances.end(record, reason="to prove that a prompt did not arrive")
        live, _ = await self._instances.ensure(replace(row, runner=record))
        if live.ref.instance_id == run.instance_id:
            raise ServerUnreachable("The instance that the prompt was sent to did not answer at first, and now does.")
        return await self._judge(live, run)

    async def _judge(self, live: LiveInstance, run: RunRecord) -> TurnEnd:
        """Tell how a turn ended whose instance is gone: nothing more comes of it, however little time it had used."""
        messages = await read_turn(live.client, run.session_id or "", run.turn_after)
        if not any(message.role == "user" for message in messages):
            # One that was told to go on had been sent before.
            return _NOT_SENT if not run.resumes else _NOT_TOLD
        end = judge(messages, STOPPED)
        if end is None or (end.error is not None and end.error.code == "not_started"):
            end = _NOT_BEGUN
        return await self._with_earlier_usage(live, run, end)

    async def _arrived(self, client: OpenCodeClient, run: RunRecord) -> bool:
        with anyio.move_on_after(ARRIVAL_SECONDS):
            while not await was_sent(client, run.session_id or "", run.turn_after):
                await anyio.sleep(ARRIVAL_SECONDS / 20)
            return True
        return False

    async def _follow(self, active: ActiveRun, live: LiveInstance, spec: AgentSpec) -> TurnEnd:
        """Follow the turn to its end; what the run had used before it was told to go on is counted in."""
        deadline = await self._deadline(live.client, active.run, at_most=self._max_run_time(spec))
        end = await self._see_through(active, live, spec, deadline=deadline, send=lambda turn: turn.follow())
        return await self._with_earlier_usage(live, active.run, end)

    async def _with_earlier_usage(self, live: LiveInstance, run: RunRecord, end: TurnEnd) -> TurnEnd:
        return replace(end, usage=await self._resumption.used_before(live, run) + end.usage)

    def _max_run_time(self, spec: AgentSpec) -> timedelta:
        return spec.life.max_run_time or self._install.settings.max_run_time

    async def _deadline(self, client: OpenCodeClient, run: RunRecord, *, at_most: timedelta) -> float | None:
        """Tell by when, on the event loop's clock, a turn must have ended that is at work; None for one that is not: it has ended."""
        session_id = run.session_id or ""
        if not await client.is_busy(session_id):
            return None
        first = next(iter(await read_turn(client, session_id, run.turn_after)), None)
        began = (first and first.created_at) or run.sent_at or run.created_at
        left = max(at_most - (self._install.now() - began), timedelta(seconds=1))
        return anyio.current_time() + left.total_seconds()

    async def _see_through(
        self,
        active: ActiveRun,
        live: LiveInstance,
        spec: AgentSpec,
        *,
        deadline: float | None,
        send: Callable[[Turn], Awaitable[TurnEnd]],
    ) -> TurnEnd:
        """See a turn through until its deadline; an abort is heard here too, and what it asks is seen to."""
        run = active.run
        planner = self._instances.planner
        answering = Answering(self._install, planner, run=run, spec=spec, live=live, emit=_nobody_listens)
        turn = Turn(
            live.client,
            live.events,
            session_id=run.session_id or "",
            after_message_id=run.turn_after,
            emit=answering.hear,
            timing=turn_timing(self._install),
        )
        active.instance_id, active.interruption = live.ref.instance_id, None
        end: TurnEnd | None = None
        with active.interruptible(deadline):
            async with answering.open():
                end = await send(turn)
        if end is not None:
            return end
        if active.interruption is Interruption.DIED:
            raise ServerUnreachable("The instance ended while its session was read.")
        return await wind_up(active, turn, live.client)

    async def _go_on(self, active: ActiveRun, end: TurnEnd) -> TurnEnd:
        """Go on with a turn that was interrupted, where its caller wanted that, though he is gone. What cannot go on ends as it stands."""
        while self._resumption.is_wanted(active.run, end.error):
            reason = "its server was ended" if end.error is None else end.error.message
            try:
                going_on = await self._resumption.prepare(active.run, reason=reason)
                end = going_on.end or await self._tell(active, going_on)
            except RunnerError as trouble:
                _log.warning("resumption_failed", run_id=active.run.run_id, error=str(trouble))
                break
        return end

    async def _tell(self, active: ActiveRun, going_on: GoingOn) -> TurnEnd:
        """Tell the agent to go on, and see that through. It has its time anew: how much of it passed while nobody was there, nobody knows."""
        store, live, spec = self._install.store, going_on.live, going_on.row.spec
        answer = await store.mark_resuming(
            active.run,
            instance_id=live.ref.instance_id,
            resumed_after=going_on.after_message_id,
            runner=going_on.record.turn_began(at=self._install.now()),
        )
        if isinstance(answer, Wish):
            return TurnEnd(Outcome.ABORTED, error=RunError("aborted", f"S{answer.words[1:]}."))
        active.run = answer

        async def taken() -> None:
            active.run, _ = await store.mark_running(active.run)

        try:
            end = await self._see_through(
                active,
                live,
                spec,
                deadline=anyio.current_time() + self._max_run_time(spec).total_seconds(),
                send=lambda turn: turn.send_and_follow(going_on.prompt, on_taken=taken),
            )
        except ServerError as error:
            await self._instances.distrust(active.run.agent_id)
            end = interrupted_by(error)
        return replace(end, usage=going_on.used + end.usage)


async def _nobody_listens(_: RunEvent) -> None:
    """The caller of an abandoned run is gone."""
