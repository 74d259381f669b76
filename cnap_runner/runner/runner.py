"""Runner: the handle on one agent's container."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta

import anyio

from cnap_runner.errors import InstanceNotFound
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.answers import PendingAnswer
from cnap_runner.model.events import RunEvent
from cnap_runner.model.ids import check_id
from cnap_runner.model.instance import ExecResult, InstanceRef, LogLine
from cnap_runner.model.journal import Decision
from cnap_runner.model.mcp import McpState
from cnap_runner.model.run import RunRequest, RunResult
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.runner.answers.replying import GivenAnswer, give_answer
from cnap_runner.runner.collectors.reading import LogQuery, LogReader
from cnap_runner.runner.journal import told
from cnap_runner.runner.lifecycle.service import inside
from cnap_runner.runner.parts import Parts
from cnap_runner.runner.provisioning.changes import PendingChange
from cnap_runner.runner.provisioning.mcp_states import mcp_states
from cnap_runner.runner.turns.callbacks import Audience, Emit, StatusCallback
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.tracing import tell_result


class Runner:
    """The handle on one agent's container. Cheap; it holds no resource and may be thrown away."""

    def __init__(self, usable: Callable[[], Parts], row: AgentRow) -> None:
        self._usable = usable
        self._row = row
        self._known = usable().install.known
        self._known.see(row.runner)

    def __repr__(self) -> str:
        return f"<Runner {self.agent_id} {self.status}>"

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        return self._row.agent_id

    @property
    def model(self) -> str:
        """The agent's own model, as in `spec`; costs less than reading all of it."""
        return self._row.model

    @property
    def spec(self) -> AgentSpec:
        """What was wanted of the agent when this handle was made."""
        return self._row.spec

    @property
    def record(self) -> RunnerRecord:
        """What this manager last saw of the runner; `RunnerManager.get_runner` looks anew."""
        return self._known.get(self.agent_id) or self._row.runner

    @property
    def status(self) -> RunnerStatus:
        """The status this manager last saw. The end of an instance shows within a second, whoever drives it."""
        return self.record.status

    async def run(self, request: RunRequest, callback: StatusCallback | None = None) -> RunResult:
        """Do one run and return how it ended. Starts or wakes the container; waits for its turn.

        Raises a `RunnerError` for what goes wrong before the prompt is sent; afterwards trouble is in the result. With an
        ``idempotency_key`` it attaches to the run of that key, or returns its result. Cancelling it aborts the turn.
        """
        return await self._run(request, callback=callback, sink=None)

    async def stream(self, request: RunRequest) -> AsyncGenerator[RunEvent, None]:
        """Do one run and yield its events as they come; the last is `RunEnded` with the result.

        Raises as `run` does. Closing the iterator early (``async with aclosing(…)``) aborts the turn.
        """
        send, receive = anyio.create_memory_object_stream[RunEvent](math.inf)
        scope, done = anyio.CancelScope(), anyio.Event()
        failure: list[Exception] = []

        async def drive() -> None:
            try:
                with scope:
                    async with send:
                        await self._run(request, callback=None, sink=send.send)
            except Exception as error:  # noqa: BLE001 - it is raised again where the events are read
                failure.append(error)
            finally:
                done.set()

        self._usable().tasks.start_soon(drive)
        # The reading end stays open until the run has ended: what it tells after the reader left must not fail it.
        with receive:
            try:
                async for event in receive:
                    yield event
            finally:
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await done.wait()
        if failure:
            raise failure[0]

    async def abort(self, task_id: str = "main") -> None:
        """End the unfinished runs of a task, whoever drives them, and wait for their end. None: nothing happens."""
        await self._usable().runs.abort(self.agent_id, check_id(task_id))

    async def logs(
        self,
        *,
        tail: int | None = None,
        follow: bool = False,
        since: datetime | timedelta | None = None,
        grep: str | None = None,
        run: str | None = None,
    ) -> AsyncIterator[LogLine]:
        """Yield what the agent's servers wrote, oldest first: what was collected, of containers that are gone too, then what the present
        one has said since; with ``follow`` what it goes on to say, until it ends.

        Wanted are lines not older than ``since`` (a moment, or so long ago), with a match of the regular expression ``grep``, of the time
        of the run ``run``; of these the last ``tail``. Each line names its instance and, where there was one, its run. Known secrets are
        redacted. Raises `InstanceNotFound` where the agent has no output yet, `InvalidInput`, and `RunNotFound`.
        """
        parts = self._usable()
        install = parts.install
        query = LogQuery.of(tail=tail, since=since, grep=grep, run=run, now=install.now())
        await parts.instances.known_secrets.learn(self.agent_id)
        ref = (await install.store.get_agent(self.agent_id)).runner.ref
        reader = LogReader(install, self.agent_id, ref, query)
        async with aclosing(reader.lines(is_following=follow)) as lines:
            async for line in lines:
                yield line

    async def exec(self, argv: Sequence[str], *, timeout: timedelta = timedelta(minutes=1)) -> ExecResult:
        """Run one command inside the live instance, as the agent's user, in its workspace. Starts nothing.

        A paused instance is thawed for it, and stays. Raises `InstanceNotFound` and `InstanceExited` where no instance lives,
        `TimeoutError` when it takes longer.
        """
        parts, ref = self._usable(), await self._ref()
        async with inside(parts, self.agent_id, "exec"):
            return await parts.install.backend.exec(ref, argv, timeout=timeout)

    async def shell_command(self, argv: Sequence[str] = ("/bin/sh",)) -> list[str]:
        """Give the local command that runs ``argv`` inside the live instance with the caller's terminal."""
        return self._usable().install.backend.shell_command(await self._ref(), argv)

    async def mcp(self, *, timeout: timedelta = timedelta(seconds=10)) -> list[McpState]:
        """Tell how the agent's MCP servers are, by name. Starts nothing: without a live instance they are ``not_running``.

        One that is still being connected after ``timeout``, which is 25 s at most, makes all of them ``starting``: OpenCode answers when
        the slowest is through. Raises `ServerError` where the server answers with an error.
        """
        parts = self._usable()
        row = await parts.install.store.get_agent(self.agent_id)
        await parts.instances.known_secrets.keep_up(row)
        return await mcp_states(parts.install, row, parts.instances.planner.configuration(row.spec), timeout=timeout)

    async def pending_changes(self) -> list[PendingChange]:
        """Tell what of the agent's spec its live instance does not have yet, when it will, and what keeps this process from applying it.

        Without a live instance: nothing. Reads the agent's secrets where something is pending.
        """
        parts = self._usable()
        store = parts.install.store
        row = await store.get_agent(self.agent_id)
        is_in_turn = bool(await store.queue_of(self.agent_id))
        return await parts.instances.pending(row, is_in_turn=is_in_turn)

    async def pending_answers(self) -> list[PendingAnswer]:
        """Return the permissions and questions of the agent that wait for somebody's reply, oldest first."""
        return await self._usable().install.store.list_pending(self.agent_id)

    async def answer(self, request_id: str, reply: GivenAnswer, *, message: str | None = None) -> None:
        """Reply to a permission or question that waits, whichever process drives its turn.

        To a permission: ``allow``, ``always`` (what is like it too, until the instance ends) or ``reject``, of which ``message`` tells the
        agent why. To a question: a text, for several questions a list with a text or the labels chosen for each, or ``reject``. Of two
        replies the first counts: the later one raises `AnswerNotPending`. Raises `InvalidInput` for what is no reply to what was asked, and
        `BackendError` or `ServerError` where the instance cannot be reached for now: what waits is kept.
        """
        parts = self._usable()
        live = parts.instances.last_used(self.agent_id)
        await give_answer(
            parts.install, live, agent_id=self.agent_id, request_id=request_id, given=reply, message=message
        )

    async def explain(self, *, limit: int = 100) -> list[Decision]:
        """Tell what was decided about the agent, when, why and by what evidence: the newest ``limit`` of at most 500, oldest first."""
        return await told(self._usable().install, self.agent_id, limit=limit)

    # --- inside ---------------------------------------------------------------------------------------------------------

    async def _run(self, request: RunRequest, *, callback: StatusCallback | None, sink: Emit | None) -> RunResult:
        parts = self._usable()
        with parts.install.tracer.span("run", agent_id=self.agent_id, task_id=request.task_id) as span:
            await parts.runs.note_use(self.agent_id)
            result = await parts.runs.run(self.agent_id, request, Audience(request.task_id, callback, sink))
            tell_result(span, result)
            return result

    async def _ref(self) -> InstanceRef:
        row = await self._usable().install.store.get_agent(self.agent_id)
        if row.runner.ref is None:
            raise InstanceNotFound(f"Agent {self.agent_id} has no instance yet.", hint="Its first run starts one.")
        return row.runner.ref
