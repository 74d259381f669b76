"""What one turn asks, seen to: what the agent's rules reply to is replied to at once, the rest waits for somebody until its deadline.

A deadline is stored with the request, so that whoever takes the turn over keeps it, and is compared with the install's clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import anyio
from anyio.abc import TaskGroup

from cnap_runner.aio.lone import lone_errors
from cnap_runner.errors import AnswerNotPending, ServerError, StoreError
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.answers import AnswerKind, PendingAnswer, Permissions, reply_to_question
from cnap_runner.model.events import PermissionRaised, QuestionRaised, RequestAnswered, RunEvent
from cnap_runner.model.run import RunRecord
from cnap_runner.runner.answers.replying import (
    REJECTED_BY_NOBODY,
    REJECTED_BY_RULE,
    GivenAnswer,
    Reply,
    note_answer,
    reply_of,
    send,
)
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.planning import Planner
from cnap_runner.runner.turns.callbacks import Emit
from cnap_runner.telemetry.logging import get_logger

CLOCK_SECONDS = 1.0
"""How often the clock is looked at while something waits."""

LONGEST_TEXT = 4000
MOST_ITEMS = 50
"""What is kept of one text and one list that an agent asks about: they may be megabytes."""

_log = get_logger(__name__)


class Answering:
    """Sees to the permissions and questions of one turn."""

    def __init__(
        self, install: Install, planner: Planner, *, run: RunRecord, spec: AgentSpec, live: LiveInstance, emit: Emit
    ) -> None:
        """What is heard is handed on to ``emit``, once a request that waits for somebody can be answered."""
        self._install = install
        self._planner = planner
        self._run = run
        self._spec = spec
        self._answers = spec.answers
        self._live = live
        self._emit = emit
        self._tasks: TaskGroup | None = None
        self._waiting: dict[str, anyio.CancelScope] = {}
        self._has_heard = False
        """Whether the turn asked anything."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Reply, and watch deadlines, as long as the context lasts. What waits then is forgotten with the run's end."""
        with lone_errors():
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                try:
                    yield
                finally:
                    self._tasks = None
                # Left by an error or a cancellation, the group ends its tasks itself, and takes nobody's cancellation for its own.
                if self._has_heard:  # most turns ask nothing, and a cancellation takes as long as all the rest of this
                    tasks.cancel_scope.cancel()

    async def hear(self, event: RunEvent) -> None:
        """Take in an event of the turn and hand it on."""
        match event:
            case PermissionRaised() | QuestionRaised() if self._tasks is not None:
                event = await self._see_to(event, self._tasks)
            case RequestAnswered(request_id):
                await self._end_wait(request_id)
        await self._emit(event)

    async def _see_to(self, event: PermissionRaised | QuestionRaised, tasks: TaskGroup) -> RunEvent:
        """Begin to see to a request; what waits for somebody is told with its deadline."""
        self._has_heard = True
        pending, said = self._pending(event), self._rule(event)
        if said != "ask":
            reply = reply_of(said, pending.kind, pending.asked, message=REJECTED_BY_RULE)
            tasks.start_soon(self._reply, pending, reply, "by its rules")
            return event
        try:
            pending = await self._install.store.add_pending(pending)
        except StoreError as error:
            # Nobody else can see it then, but its deadline holds all the same.
            _log.warning("pending_not_stored", agent_id=pending.agent_id, error=str(error))
        _log.info("answer_awaited", agent_id=pending.agent_id, run_id=pending.run_id, request_id=pending.request_id)
        scope = self._waiting[pending.request_id] = anyio.CancelScope()
        tasks.start_soon(self._watch, pending, scope)
        return replace(event, deadline=pending.deadline_at)

    def _rule(self, event: PermissionRaised | QuestionRaised) -> str:
        if isinstance(event, PermissionRaised):
            return self._permissions.reply_to(event.permission, event.patterns)
        return reply_to_question(self._answers)

    @cached_property
    def _permissions(self) -> Permissions:
        """Worked out when the turn asks first: most turns never do."""
        return self._planner.permissions(self._spec, instance_id=self._live.ref.instance_id)

    def _pending(self, event: PermissionRaised | QuestionRaised) -> PendingAnswer:
        install, now = self._install, self._install.now()
        if isinstance(event, PermissionRaised):
            kind = AnswerKind.PERMISSION
            asked: dict[str, Any] = {
                "permission": event.permission,
                "patterns": list(event.patterns),
                "details": dict(event.details),
            }
        else:
            kind, asked = AnswerKind.QUESTION, {"questions": [dict(question) for question in event.questions]}
        return PendingAnswer(
            request_id=event.request_id,
            agent_id=self._run.agent_id,
            run_id=self._run.run_id,
            instance_id=self._live.ref.instance_id,
            kind=kind,
            asked=_shortened(install.redactor.redact_data(asked)),
            asked_at=now,
            deadline_at=now + (self._answers.deadline or install.settings.answer_deadline),
        )

    async def _watch(self, pending: PendingAnswer, scope: anyio.CancelScope) -> None:
        """Wait until the deadline, then reply with the fallback."""
        with scope:
            while (left := (pending.deadline_at - self._install.now()).total_seconds()) > 0:
                await anyio.sleep(min(left, CLOCK_SECONDS))
            given: GivenAnswer = self._answers.fallback if pending.kind is AnswerKind.PERMISSION else "reject"
            reply = reply_of(given, pending.kind, pending.asked, message=REJECTED_BY_NOBODY)
            # That it is answered may be heard before the reply has returned.
            del self._waiting[pending.request_id]
            await self._reply(pending, reply, "because nobody answered in time")
            await self._drop(pending.request_id)

    async def _reply(self, pending: PendingAnswer, reply: Reply, by: str) -> None:
        """Reply, as often as it takes: until then the agent waits. Somebody may have been faster."""
        while True:
            try:
                await send(self._live.client, pending.request_id, reply)
            except AnswerNotPending:
                break
            except ServerError as error:
                _log.warning("reply_failed", agent_id=pending.agent_id, error=str(error))
                await anyio.sleep(CLOCK_SECONDS)
            else:
                with anyio.CancelScope(shield=True):
                    await note_answer(self._install, pending, reply, by=by)
                break

    async def _end_wait(self, request_id: str) -> None:
        """Stop waiting for what was answered, by whomever."""
        if (scope := self._waiting.pop(request_id, None)) is not None:
            scope.cancel()
            await self._drop(request_id)

    async def _drop(self, request_id: str) -> None:
        try:
            await self._install.store.drop_pending(request_id)
        except StoreError as error:
            _log.warning("pending_not_dropped", request_id=request_id, error=str(error))


def _shortened(value: Any) -> Any:
    """Cut long texts and lists, and replace what is no Unicode: both are an agent's to choose."""
    match value:
        case str():
            return value[:LONGEST_TEXT].encode("utf-8", "replace").decode()
        case Mapping():
            return {str(_shortened(key)): _shortened(item) for key, item in islice(value.items(), MOST_ITEMS)}
        case list() | tuple():
            return [_shortened(item) for item in value[:MOST_ITEMS]]
        case _:
            return value
