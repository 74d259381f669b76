"""Going on with a turn that was interrupted: the agent is told what happened, in the same session, with another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.model.run import Outcome, RunError, RunRecord, Usage
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.opencode.repair import mend
from cnap_runner.opencode.sessions import read_turn
from cnap_runner.opencode.turn import TurnEnd
from cnap_runner.opencode.verdict import Standing, is_later, judge, total_usage
from cnap_runner.opencode.wire import Prompt, SessionMessage
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.instances.instances import Instances
from cnap_runner.runner.journal import note
from cnap_runner.store.base import AgentRow

INTERRUPTIONS = frozenset({"interrupted", "instance_died", "out_of_memory"})
"""Codes of turns that something else than the agent, its model or somebody's wish ended."""

STOPPED = Standing(is_busy=False, is_settled=True, is_overdue=True)
"""Of a turn whose server is gone: nothing more comes."""

_NEVER_ARRIVED = TurnEnd(
    Outcome.FAILED,
    error=RunError("not_sent", "The instance ended before the prompt reached its session.", retryable=True),
)


@dataclass(frozen=True, slots=True)
class GoingOn:
    """What is needed to go on with a run."""

    row: AgentRow
    live: LiveInstance
    record: RunnerRecord
    after_message_id: str | None
    """The session's last message."""
    prompt: Prompt
    used: Usage
    """By the run so far."""
    end: TurnEnd | None
    """Set: there is nothing to go on with, because the turn had come to this end before its server did."""


class Resumption:
    """Prepares to go on with runs that want it. The caller holds the agent's lease."""

    def __init__(self, install: Install, instances: Instances) -> None:
        self._install = install
        self._instances = instances

    def is_wanted(self, run: RunRecord, error: RunError | None) -> bool:
        """Whether a run that ended like this is to go on. It does so at most ``max_retries`` times."""
        is_interrupted = error is not None and error.code in INTERRUPTIONS
        return is_interrupted and run.on_interrupt == "resume" and run.resumes < self._install.settings.max_retries

    async def prepare(self, run: RunRecord, *, reason: str, prompt: Prompt | None = None) -> GoingOn:
        """Start the agent's instance anew, mend the session, and make the prompt that tells what happened.

        ``prompt`` is the run's own, where it is still known: its model and system prompt go on to count. Raises as a start does, and
        `ServerError`.
        """
        row = await self._install.store.get_agent(run.agent_id)
        live, record = await self._instances.ensure(row)
        messages = await read_turn(live.client, run.session_id or "", run.after_message_id)
        latest = [message for message in messages if is_later(message.id, run.turn_after)]
        end = _end_of(latest, has_been_told=run.resumes > 0)
        tools = await mend(live.client, run.session_id or "", reason=reason)
        text = told_text(reason, tools=tools, has_begun=any(message.role == "assistant" for message in latest))
        prompt = prompt or Prompt((), system=row.spec.system_prompt, model=run.model or row.spec.model)
        if end is None:
            await self._note(run, reason, tools)
        return GoingOn(
            row=row,
            live=live,
            record=record,
            after_message_id=messages[-1].id if messages else run.turn_after,
            prompt=replace(prompt, texts=(text,), files=()),
            used=Usage() if end is not None else total_usage(messages),
            end=end if end is None else replace(end, usage=total_usage(messages)),
        )

    async def used_before(self, live: LiveInstance, run: RunRecord) -> Usage:
        """Tell what a run had used when it was told to go on last."""
        if not run.resumes:
            return Usage()
        messages = await read_turn(live.client, run.session_id or "", run.after_message_id)
        return total_usage([message for message in messages if not is_later(message.id, run.turn_after)])

    async def _note(self, run: RunRecord, reason: str, tools: list[str]) -> None:
        evidence: Evidence = {
            "cause": "turn",
            "run_id": run.run_id,
            "resumes": run.resumes + 1,
            "tool": tools[-1] if tools else None,
        }
        told = f"its turn was interrupted, and it is told to go on: {reason}"
        await note(self._install, run.agent_id, DecisionKind.RECOVERED, told, evidence)


def _end_of(messages: Sequence[SessionMessage], *, has_been_told: bool) -> TurnEnd | None:
    """Tell how a turn had ended before its server did; None where it had not, so that there is something to go on with."""
    if not messages and not has_been_told:
        return _NEVER_ARRIVED
    end = judge(messages, STOPPED)
    is_interrupted = end is None or (end.error is not None and end.error.code in INTERRUPTIONS | {"not_started"})
    return None if is_interrupted else end


def told_text(reason: str, *, tools: list[str], has_begun: bool) -> str:
    """Say to the agent what happened. It is the prompt of the turn that goes on, and never the one that was sent before."""
    where = "before you began to answer"
    if has_begun:
        where = "in the middle of your answer"
    if tools:
        names = " and ".join(dict.fromkeys(tools))
        where = f"while the tool {names} ran; whether that had its effect is not known"
    return (
        f"Your last turn was interrupted {where}. The reason: {reason}. Processes that you had started are gone; the files are as they "
        "were at that moment. Look at the present state first. Then go on with what you were asked, from where you stopped, without "
        "doing again what is done."
    )
