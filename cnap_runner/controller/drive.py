"""One turn of a task, from its acceptance to its end."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import anyio

from cnap_runner.aio.shield import shielded
from cnap_runner.controller.listener import News
from cnap_runner.errors import RunnerError, TaskNotFound
from cnap_runner.model.events import RunEnded, RunEvent, StatusChanged
from cnap_runner.model.run import Message, RunRequest, RunState
from cnap_runner.model.task import TaskRecord, TaskState, TaskTurn
from cnap_runner.runner.manager import RunnerManager
from cnap_runner.runner.turns.callbacks import Audience, StatusCallback
from cnap_runner.telemetry.logging import get_logger

LAST_WORDS = timedelta(seconds=5)
"""How long the end of a turn that was cut off may take to be written. What is not written is settled later, from the ledger."""
SETTLE_AGAIN_SECONDS = 0.5

_GIVEN_UP = "Its turn was given up before the prompt was sent."

_log = get_logger(__name__)


class Drive:
    """Drives one accepted turn. Used once.

    The task's state moves when its run has ended, and by what the ledger says of it: not by what this process believes.
    """

    def __init__(self, manager: RunnerManager, turn: TaskTurn, news: News) -> None:
        self.ended = anyio.Event()
        """Set when the turn is over and the task's state was moved, or its process gives up."""
        self.is_waiting = True
        """Whether it has no place yet."""
        self._manager = manager
        self._install = manager.parts.install
        self._turn = turn
        self._news = news
        self._scope = anyio.CancelScope()
        self._is_settled = False

    async def run(self, place: AbstractAsyncContextManager[object]) -> None:
        """Wait for the place, do the run in it, settle the task. Raises nothing but cancellation."""
        try:
            await self._news.changed(self._turn.task)
            await self._settle_for_sure(await self._run(place))
        except BaseException:
            async with shielded(LAST_WORDS):
                await self._settle_for_sure(_GIVEN_UP)
            raise
        finally:
            self.ended.set()

    async def _run(self, place: AbstractAsyncContextManager[object]) -> str:
        """Do the run; return why its prompt was not sent, where it was not: where it was, the ledger knows better."""
        try:
            with self._scope:
                async with place:
                    self.is_waiting = False
                    await self._take()
        except RunnerError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - one turn that breaks must not break the others
            _log.exception("turn_broke", task_id=self._turn.task.task_id)
            return f"An unexpected {type(error).__name__}: {error}"
        return _GIVEN_UP

    def give_up_waiting(self) -> None:
        """Leave the line for a place; once the turn has one, its run is aborted instead."""
        if self.is_waiting:
            self._scope.cancel()

    async def _take(self) -> None:
        task = await self._install.store.tasks.get(self._turn.task.task_id)
        if task.state is not TaskState.RUNNING:
            return
        runner = await self._manager.get_runner(task.agent_id)
        request = RunRequest(
            messages=tuple(Message(role="user", content=message.content) for message in self._turn.messages),
            task_id=task.task_id,
            idempotency_key=self._turn.key,
        )
        await runner.run(request, _Hearing(self, self._news.audience(task.task_id)))

    async def entered(self) -> None:
        """The run is in the ledger: remember it, and give it up if the task was canceled before it could be found there."""
        try:
            is_wanted = (await self._note_run()).state is TaskState.RUNNING
        except TaskNotFound:
            is_wanted = False
        if not is_wanted:
            self._scope.cancel()

    async def ended_with(self, reason: str) -> None:
        """The run has ended: move the task's state. Raises nothing; what cannot be written now is written later."""
        try:
            await self._settle(reason)
        except RunnerError as trouble:
            _log.warning("task_not_settled", task_id=self._turn.task.task_id, error=str(trouble))

    async def _settle_for_sure(self, reason: str) -> None:
        """Settle the task, whatever time it takes; a run whose end could not be stored is ended by whoever settles the ledger."""
        while not self._is_settled:
            try:
                if not await self._settle(reason):
                    await self._manager.wait_run((await self._note_run()).run_id or "")
            except TaskNotFound:
                return  # its agent was erased, and all that was known of it
            except Exception as trouble:  # noqa: BLE001 - one turn that breaks must not break the others
                _log.warning("task_not_settled", task_id=self._turn.task.task_id, error=str(trouble))
                await anyio.sleep(SETTLE_AGAIN_SECONDS)

    async def _settle(self, reason: str) -> bool:
        """Settle the task from the ledger and tell it, once; False where its run has not ended."""
        if self._is_settled:
            return True
        owner = self._install.manager_id
        task = await self._install.store.tasks.end_turn(
            self._turn.task.task_id, owner=owner, reason=self._install.redactor.redact(reason), at=self._install.now()
        )
        if task.owner is not None:
            return False
        self._is_settled = True
        await self._news.changed(task)
        return True

    async def _note_run(self) -> TaskRecord:
        return await self._install.store.tasks.note_run(self._turn.task.task_id, owner=self._install.manager_id)


class _Hearing(StatusCallback):
    """Hears the run of a turn: moves the task with it, then tells it on. A fragment of text moves nothing."""

    def __init__(self, drive: Drive, audience: Audience) -> None:
        self._drive = drive
        self._audience = audience

    async def on_event(self, _task_id: str, event: RunEvent, /) -> None:
        """Remember the run when it is in the ledger, and move the task when it has ended."""
        if isinstance(event, StatusChanged) and event.state is RunState.QUEUED:
            await self._drive.entered()
        elif isinstance(event, RunEnded):
            await self._drive.ended_with(_GIVEN_UP)
        await self._audience.tell(event)

    async def on_error(self, _task_id: str, error: RunnerError, /) -> None:
        """The run ended before its prompt was sent."""
        await self._drive.ended_with(error.message)
        await self._audience.refuse(error)
