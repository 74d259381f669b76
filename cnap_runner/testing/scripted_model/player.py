"""Plays one reply to one request, as an ASGI response that can also hang, break and drop its connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from cnap_runner.testing.scripted_model.script import (
    CallTool,
    CutStream,
    Fail,
    Hang,
    Malformed,
    Reply,
    Say,
    Step,
    Think,
    TokenUsage,
    Wait,
)
from cnap_runner.testing.scripted_model.wire import (
    DONE,
    Envelope,
    ToolCallIndex,
    error_body,
    event,
    finish_reason,
    pieces,
)

_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class _Dropped(Exception):
    """The script drops the connection here."""


@dataclass(frozen=True, slots=True)
class ScriptedResponse:
    """The ASGI response that plays a reply. It ends early when the client leaves or the server closes."""

    reply: Reply
    envelope: Envelope
    usage: TokenUsage
    is_streamed: bool
    closing: asyncio.Event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Play it. A response that returns in its middle makes the server drop the connection."""
        async with anyio.create_task_group() as watch:
            watch.start_soon(_cancel_at, watch.cancel_scope, self.closing)
            watch.start_soon(_cancel_when_left, watch.cancel_scope, receive)
            with contextlib.suppress(_Dropped):
                await self._play(scope, receive, send)
            watch.cancel_scope.cancel()

    async def _play(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = await _before_headers(self.reply.steps)
        if rest and isinstance(rest[0], Fail):
            await failure(rest[0])(scope, receive, send)
        elif self.is_streamed:
            await self._stream(rest, send)
        else:
            await self._send_whole(scope, receive, send)

    async def _stream(self, steps: Sequence[Step], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await anyio.sleep(self.reply.first_token_after.total_seconds())
        stream = _Stream(self.envelope, ToolCallIndex(self.envelope), send)
        await stream.send(self.envelope.chunk({"role": "assistant", "content": ""}))
        for step in steps:
            await stream.play(step)
        await stream.send(self.envelope.chunk({}, finish_reason(self.reply)))
        await stream.send(self.envelope.usage_chunk(self.usage))
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(self.reply.first_token_after.total_seconds())
        for step in self.reply.steps:
            match step:
                case Wait(duration=duration):
                    await anyio.sleep(duration.total_seconds())
                case Hang():
                    await anyio.sleep_forever()
                case CutStream() | Malformed():
                    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64")]})
                    raise _Dropped
        await JSONResponse(self.envelope.whole(self.reply, self.usage))(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Stream:
    """The open stream of one reply."""

    envelope: Envelope
    calls: ToolCallIndex
    _send: Send

    async def send(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def play(self, step: Step) -> None:
        match step:
            case Say():
                await self._say(step)
            case Think(text=text):
                await self.send(self.envelope.chunk({"reasoning_content": text}))
            case CallTool():
                await self.send(self.calls.chunk(step))
            case Wait(duration=duration):
                await anyio.sleep(duration.total_seconds())
            case Hang():
                await anyio.sleep_forever()
            case Malformed(data=data):
                await self.send(b"data: " + data.encode() + b"\n\n")
            case Fail(status=status, message=message):
                await self.send(event(error_body(status, message)))
            case CutStream(after=text):
                await self._say(Say(text))
                raise _Dropped

    async def _say(self, say: Say) -> None:
        for at, piece in enumerate(pieces(say)):
            if at:
                await anyio.sleep(say.pause.total_seconds())
            await self.send(self.envelope.chunk({"content": piece}))


def failure(fail: Fail) -> JSONResponse:
    """An HTTP error as a provider sends it."""
    headers = {} if fail.retry_after is None else {"retry-after": str(int(fail.retry_after.total_seconds()))}
    return JSONResponse(error_body(fail.status, fail.message), fail.status, headers)


async def _before_headers(steps: Sequence[Step]) -> Sequence[Step]:
    """Live through what happens before anything is sent; returns the steps from there on."""
    for at, step in enumerate(steps):
        match step:
            case Wait(duration=duration):
                await anyio.sleep(duration.total_seconds())
            case Hang():
                await anyio.sleep_forever()
            case _:
                return steps[at:]
    return ()


async def _cancel_at(scope: anyio.CancelScope, closing: asyncio.Event) -> None:
    await closing.wait()
    scope.cancel()


async def _cancel_when_left(scope: anyio.CancelScope, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
