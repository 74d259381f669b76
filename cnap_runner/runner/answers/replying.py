"""Replies to permissions and questions, brought to OpenCode, which alone knows whether they still wait: of two replies the first counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cnap_runner.errors import AnswerNotPending, InstanceNotFound, InvalidInput, RunnerNotFound, ServerUnreachable
from cnap_runner.model.answers import AnswerKind, PendingAnswer
from cnap_runner.model.instance import InstanceStatus
from cnap_runner.model.journal import DecisionKind, Evidence
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import note

GivenAnswer = str | Sequence[str | Sequence[str]]
"""For a permission ``allow``, ``always`` or ``reject``. For a question ``reject``, a text for each of its questions, or a list with a
text or the chosen labels for each."""

REJECTED_BY_RULE = "The rules of this agent do not allow it."
REJECTED_BY_NOBODY = "Nobody answered in time. Go on without it."
REJECTED_BY_SOMEBODY = "Whoever was asked rejected it."

_TO_OPENCODE: Mapping[str, Literal["once", "always", "reject"]] = {
    "allow": "once",
    "always": "always",
    "reject": "reject",
}
_LONGEST = 16 << 10


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent to OpenCode."""

    kind: AnswerKind
    permission: Literal["once", "always", "reject"] | None = None
    answers: tuple[tuple[str, ...], ...] | None = None
    """For a question; None: it is dismissed."""
    message: str | None = None
    """Tells the agent why a permission is rejected."""

    @property
    def word(self) -> str:
        """What it is, in the past tense."""
        if self.kind is AnswerKind.QUESTION:
            return "rejected" if self.answers is None else "answered"
        return "rejected" if self.permission == "reject" else "allowed"


def reply_of(given: GivenAnswer, kind: AnswerKind, asked: Mapping[str, Any], *, message: str | None = None) -> Reply:
    """Make a reply of what somebody, a rule or a fallback says. Raises `InvalidInput` where it is no reply to what was asked."""
    if kind is AnswerKind.QUESTION:
        return Reply(kind, answers=None if given == "reject" else _answers(given, len(asked.get("questions", ()))))
    if not isinstance(given, str) or given not in _TO_OPENCODE:
        raise InvalidInput("a permission is replied to with allow, always or reject.")
    word = _TO_OPENCODE[given]
    return Reply(kind, permission=word, message=(message or REJECTED_BY_SOMEBODY) if word == "reject" else None)


async def send(client: OpenCodeClient, request_id: str, reply: Reply) -> None:
    """Bring a reply to OpenCode. Raises `AnswerNotPending` and as any call does."""
    if reply.permission is not None:
        await client.reply_to_permission(request_id, reply.permission, message=reply.message)
    elif reply.answers is not None:
        await client.reply_to_question(request_id, reply.answers)
    else:
        await client.reject_question(request_id)


async def give_answer(
    install: Install,
    live: LiveInstance | None,
    *,
    agent_id: str,
    request_id: str,
    given: GivenAnswer,
    message: str | None,
) -> None:
    """Reply to a request that waits, whoever drives its turn. ``live`` is what this manager last used for the agent.

    Raises `AnswerNotPending`, `InvalidInput`; `BackendError` and `ServerError` where the instance cannot be reached: what waits is kept then.
    """
    pending = await install.store.get_pending(request_id)
    if pending is None or pending.agent_id != agent_id:
        raise AnswerNotPending(f"Nothing of the id {request_id[:80]!r} waits for an answer to agent {agent_id}.")
    reply = reply_of(given, pending.kind, pending.asked, message=message)
    try:
        async with _client(install, live, pending) as client:
            await send(client, request_id, reply)
    except AnswerNotPending:
        await install.store.drop_pending(request_id)
        raise AnswerNotPending(f"{pending.text} waits for an answer no more.") from None
    await install.store.drop_pending(request_id)
    await note_answer(install, pending, reply, by="by somebody who was asked")


async def note_answer(install: Install, pending: PendingAnswer, reply: Reply, *, by: str) -> None:
    """Write down that a request was replied to, and by whom."""
    waited = max((install.now() - pending.asked_at).total_seconds(), 0.0)
    evidence: Evidence = {
        "request_id": pending.request_id,
        "run_id": pending.run_id,
        "waited_seconds": round(waited, 3),
    }
    reason = f"its {pending.kind} ({pending.text[:200]}) was {reply.word} {by}"
    await note(install, pending.agent_id, DecisionKind.ANSWERED, reason, evidence)


@asynccontextmanager
async def _client(install: Install, live: LiveInstance | None, pending: PendingAnswer) -> AsyncIterator[OpenCodeClient]:
    """Give a client of the instance that asks; one of our own where another process drives it."""
    if live is not None and live.ref.instance_id == pending.instance_id and live.life.can_serve:
        yield live.client
        return
    endpoint = await _endpoint(install, pending)
    async with install.client_for(endpoint, pending.instance_id) as client:
        yield client


async def _endpoint(install: Install, pending: PendingAnswer) -> str:
    gone = AnswerNotPending("the instance that asked is gone")
    try:
        record = (await install.store.get_agent(pending.agent_id)).runner
        if record.ref is None or record.instance_id != pending.instance_id:
            raise gone
        seen = await install.backend.inspect(record.ref)
    except (RunnerNotFound, InstanceNotFound) as error:
        raise gone from error
    if seen.status is InstanceStatus.EXITED:
        raise gone
    if seen.endpoint is None:
        raise ServerUnreachable(f"The instance of agent {pending.agent_id} has no address at the moment.")
    return seen.endpoint


def _answers(given: GivenAnswer, count: int) -> tuple[tuple[str, ...], ...]:
    items: Sequence[str | Sequence[str]] = [given] * count if isinstance(given, str) else given
    answers = tuple((item,) if isinstance(item, str) else tuple(item) for item in items)
    if len(answers) != count:
        raise InvalidInput(f"{count} questions were asked, and {len(answers)} answers given.")
    if any(not str(word).strip() for answer in answers for word in answer):
        raise InvalidInput("an answer is text.")
    if any(len(word) > _LONGEST for answer in answers for word in answer):
        raise InvalidInput(f"an answer is longer than {_LONGEST} characters.")
    return answers
