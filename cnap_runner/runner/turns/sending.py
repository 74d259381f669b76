"""The moment in which a prompt leaves: written before it does, so that it is never sent twice, and again when the server took it."""

from __future__ import annotations

from anyio.lowlevel import checkpoint

from cnap_runner.model.run import RunState
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.install import Install
from cnap_runner.runner.turns.active import ActiveRun, Interruption
from cnap_runner.runner.turns.queue import aborted_by
from cnap_runner.runner.turns.sendable import Sendable
from cnap_runner.runner.turns.telling import Telling
from cnap_runner.store.base import Wish


class Sending:
    """Writes down how far the prompts of one run came."""

    def __init__(self, install: Install, active: ActiveRun, telling: Telling) -> None:
        self.may_have_left = False
        """Whether a prompt may be on its way."""
        self._install = install
        self._active = active
        self._telling = telling

    async def begin(self, sendable: Sendable) -> None:
        """Write that the prompt is about to leave, unless just that was written with the entry. From here on it is never sent again."""
        running = sendable.record.turn_began(at=self._install.now())
        if sendable.is_resumption:
            await self._begin_resuming(sendable, running)
        elif not self._is_written(sendable):
            await self._begin_anew(sendable, running)
        self._install.known.see(running)
        await self._telling.tell_state(RunState.SENDING)
        self.may_have_left = True

    async def taken(self) -> None:
        """The server took the prompt: write it, and see whether somebody wished the run to end meanwhile."""
        self._active.run, wishes = await self._install.store.mark_running(self._active.run)
        if wishes:
            self._active.interrupt(Interruption.ABORTED, wishes[0].words)
        await self._telling.tell_state(RunState.RUNNING)

    async def _begin_anew(self, sendable: Sendable, running: RunnerRecord) -> None:
        answer = await self._install.store.mark_sending(
            self._active.run,
            session_id=sendable.session_id,
            instance_id=sendable.live.ref.instance_id,
            after_message_id=sendable.after_message_id,
            runner=running,
            at=self._install.now(),
        )
        if isinstance(answer, Wish):
            raise aborted_by(answer)
        self._active.run = answer

    async def _begin_resuming(self, sendable: Sendable, running: RunnerRecord) -> None:
        answer = await self._install.store.mark_resuming(
            self._active.run,
            instance_id=sendable.live.ref.instance_id,
            resumed_after=sendable.after_message_id,
            runner=running,
        )
        if isinstance(answer, Wish):
            self._active.interrupt(Interruption.ABORTED, answer.words)
            await checkpoint()  # is left here
        else:
            self._active.run = answer

    def _is_written(self, sendable: Sendable) -> bool:
        run = self._active.run
        return (
            run.state is RunState.SENDING
            and sendable.record == self._active.was_ready
            and run.session_id == sendable.session_id
            and run.instance_id == sendable.live.ref.instance_id
            and run.after_message_id == sendable.after_message_id
        )
