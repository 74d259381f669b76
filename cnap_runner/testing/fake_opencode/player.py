"""Plays a fake turn, in the order of events that the real server was seen to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cnap_runner.testing.fake_opencode.script import (
    Ask,
    AskQuestion,
    Break,
    Cut,
    DropStreams,
    Edit,
    Fail,
    FailUnanswered,
    Hold,
    MuteStreams,
    Retry,
    Say,
    Step,
    Think,
    UseTool,
)
from cnap_runner.testing.fake_opencode.sessions import FakeSession, Json, new_id, now
from cnap_runner.testing.fake_opencode.streams import Streams
from cnap_runner.testing.fake_opencode.waits import Waits


class Player:
    """One turn of one session."""

    def __init__(
        self, session: FakeSession, streams: Streams, waits: Waits, *, released: asyncio.Event, model: Json
    ) -> None:
        self._session = session
        self._streams = streams
        self._waits = waits
        self._released = released
        self._model = model
        self._question_id: str = session.messages[-1]["info"]["id"]
        self._answer: Json | None = None
        self._open_part: Json | None = None
        self._heard = ""

    async def play(self, steps: Sequence[Step]) -> None:
        """Play all steps, then end the turn. Cancelled, it ends as an aborted turn does, or stops dead if it was taken off its session."""
        self._session.set_status({"type": "busy"})
        try:
            for step in steps:
                await self._play(step)
                if isinstance(step, Cut | Fail | FailUnanswered):
                    return
                await asyncio.sleep(0)
            self._finish("stop")
        except asyncio.CancelledError:
            if self._session.turn is None:  # its server was killed
                raise
            self._end_with({"name": "MessageAbortedError", "data": {"message": "Aborted"}})
            raise

    async def _play(self, step: Step) -> None:
        match step:
            case Say(pieces):
                self._stream("text", pieces)
            case Think(pieces):
                self._stream("reasoning", pieces)
            case UseTool(is_endless=True):
                self._begin_tool(step)
                await asyncio.get_running_loop().create_future()
            case UseTool():
                self._use_tool(step)
            case Hold():
                await self._released.wait()
            case Fail():
                self._fail(step)
            case FailUnanswered():
                self._session.fail({"name": step.name, "data": {"message": step.message}})
                self._session.set_status({"type": "idle"})
            case Cut(finish):
                self._finish(finish)
            case Break():
                self._session.complete(self._message(), "unknown")
                self._answer = None
            case Ask() | AskQuestion():
                await self._ask(step)
            case Edit() | Retry() | DropStreams() | MuteStreams():
                await self._tell(step)

    async def _ask(self, step: Ask | AskQuestion) -> None:
        if isinstance(step, Ask):
            about: Json = {"permission": step.permission, "patterns": list(step.patterns), "metadata": {}, "always": []}
            asked = {"id": new_id("per"), "sessionID": self._session.id, **about}
            wait = self._waits.add("permission", asked, self._session.publish)
            if not step.is_waiting:
                return
        else:
            questions = [{"question": text, "header": text, "options": []} for text in step.questions]
            asked = {"id": new_id("que"), "sessionID": self._session.id, "questions": questions}
            wait = self._waits.add("question", asked, self._session.publish)
        await wait.replied.wait()

    async def _tell(self, step: Edit | Retry | DropStreams | MuteStreams) -> None:
        match step:
            case Edit(path):
                self._session.publish("file.edited", {"file": path})
            case Retry(attempt, message):
                self._session.set_status({"type": "retry", "attempt": attempt, "message": message, "next": now()})
            case DropStreams():
                await self._streams.drop()
            case MuteStreams():
                self._streams.mute()

    def _message(self) -> Json:
        if self._answer is None:
            self._answer = self._session.add_answer(self._question_id, self._model)
            self._session.add_part(self._answer, {"type": "step-start"})
        return self._answer

    def _stream(self, kind: str, pieces: Sequence[str]) -> None:
        part = self._session.add_part(self._message(), {"type": kind, "text": "", "time": {"start": now()}})
        for piece in pieces:
            self._session.publish_delta(part, piece)
        part["text"] = "".join(pieces)
        part["time"] = {**part["time"], "end": now()}
        self._session.publish_part(part)

    def _begin_tool(self, step: UseTool) -> Json:
        state: Json = {"status": "pending", "input": {}, "raw": ""}
        part = self._session.add_part(
            self._message(), {"type": "tool", "tool": step.tool, "callID": new_id("call"), "state": state}
        )
        running = {"status": "running", "input": dict(step.input), "time": {"start": now()}}
        for output in ("", *step.progress):
            self._update(part, {**running, "metadata": {"output": output}})
        return part

    def _use_tool(self, step: UseTool) -> None:
        part = self._begin_tool(step)
        ended = {"input": dict(step.input), "time": {"start": now(), "end": now()}, "metadata": {}}
        if step.error is not None:
            self._update(part, {**ended, "status": "error", "error": step.error})
        else:
            self._update(part, {**ended, "status": "completed", "output": step.output, "title": step.tool})
        self._session.complete(self._message(), "tool-calls")
        self._answer = None

    def _update(self, part: Json, state: Json) -> None:
        part["state"] = state
        self._session.publish_part(part)

    def _finish(self, finish: str) -> None:
        self._session.complete(self._message(), finish)
        self._session.set_status({"type": "idle"})

    def _fail(self, step: Fail) -> None:
        self._message()
        data: Json = {"message": step.message, "isRetryable": step.is_retryable}
        if step.status is not None:
            data["statusCode"] = step.status
        self._end_with({"name": step.name, "data": data})

    def _end_with(self, error: Json) -> None:
        """The real server tells the error and that it is idle first, tidies up, and completes the message only then."""
        self._session.fail(error)
        self._session.set_status({"type": "idle"})
        if self._answer is not None:
            self._session.complete(self._answer, None, error=error)
        self._session.set_status({"type": "idle"})
