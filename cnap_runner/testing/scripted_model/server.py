"""The scripted model as a server: an OpenAI-compatible endpoint that plays what a test wrote down."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from cnap_runner.errors import InvalidInput
from cnap_runner.testing.scripted_model.conversation import Conversation, read_conversation
from cnap_runner.testing.scripted_model.language import parse_prompt
from cnap_runner.testing.scripted_model.log import RecordedRequest, RequestLog, now
from cnap_runner.testing.scripted_model.player import ScriptedResponse, failure
from cnap_runner.testing.scripted_model.script import (
    CutStream,
    Fail,
    Reply,
    Rule,
    Say,
    Step,
    Turn,
    as_turn,
    due_reply,
)
from cnap_runner.testing.scripted_model.wire import Envelope, used

PROVIDER_PACKAGE = "@ai-sdk/openai-compatible"
"""OpenCode's client of this protocol. It is bundled in the binary, so nothing is fetched."""


class ScriptedModel:
    """A model server on this machine, as an async context manager.

    The turn for a prompt is that of the first rule that matches; else the one the prompt itself describes
    (`cnap_runner.testing.scripted_model.language`); else ``default``; else the prompt is echoed. Which reply of the turn is due is read
    from the conversation, so a server that is started again carries on in mid-turn. Only ``times`` of a step is counted in memory.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        default: Step | Reply | Sequence[Step | Reply] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Containers reach a server on ``0.0.0.0`` as ``host.docker.internal``; one on loopback they do not. Port 0 takes a free one.

        With an ``api_key``, requests without it get 401 and are not recorded.
        """
        self._rules = tuple(rules)
        self._default = None if default is None else as_turn(default)
        self._address = (host, port)
        self._api_key = api_key
        self._log = RequestLog(log_path)
        self._closing = asyncio.Event()
        self._port: int | None = None

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request that asked for a reply, the oldest first, calls for titles included."""
        return list(self._log.requests)

    @property
    def prompts(self) -> list[str]:
        """The prompts that came, the oldest first: no titles, no continued turns, no retries."""
        return [request.prompt for request in self._log.requests if request.is_prompt]

    @property
    def port(self) -> int:
        """The port it listens on. Only while the server runs."""
        if self._port is None:
            raise RuntimeError("The scripted model has no port before `async with`.")
        return self._port

    @property
    def base_url(self) -> str:
        """The ``baseURL`` for clients on this machine."""
        return self.base_url_at("127.0.0.1" if self._address[0] == "0.0.0.0" else self._address[0])

    def base_url_at(self, host: str) -> str:
        """The ``baseURL`` for clients that reach this machine by that name."""
        return f"http://{host}:{self.port}/v1"

    @property
    def model(self) -> str:
        """The name for `AgentSpec.model` that goes with `provider_config()`."""
        return "scripted/demo"

    def provider_config(
        self, name: str = "scripted", model: str = "demo", *, host: str | None = None, api_key: str = "unused"
    ) -> dict[str, Any]:
        """OpenCode's configuration of this server as a provider, for `AgentSpec.opencode`.

        ``host`` is the name clients reach this machine by, ``host.docker.internal`` from a container. ``api_key`` may be a reference
        such as ``${NAME}``, which keeps the key itself out of the configuration.
        """
        base_url = self.base_url if host is None else self.base_url_at(host)
        return provider_config(base_url, name=name, model=model, api_key=api_key)

    async def __aenter__(self) -> Self:
        listener = _listen(*self._address)
        self._port = listener.getsockname()[1]
        self._server = _Server(self.app())
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="scripted-model")
        await self._server.has_started.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.should_exit = True
        with anyio.CancelScope(shield=True):
            await self._serving

    def app(self) -> ASGIApp:
        """The ASGI application, for who serves it in another way."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._list_models, methods=["GET"]),
            ]
        )

    async def _list_models(self, request: Request) -> ASGIApp:
        if not self._is_authorized(request):
            return failure(_WRONG_KEY)
        return JSONResponse({"object": "list", "data": [{"id": "demo", "object": "model", "owned_by": "scripted"}]})

    async def _complete(self, request: Request) -> ASGIApp:
        if not self._is_authorized(request):
            return failure(_WRONG_KEY)
        try:
            body = json.loads(await request.body())
            conversation = read_conversation(body)
        except (ValueError, AttributeError):
            return failure(Fail(400, "The body is not a chat-completions request."))
        recorded = await self._record(request, conversation)
        reply = _still_due(self._reply_to(conversation), recorded.attempt)
        envelope = Envelope(
            reply_id=f"{conversation.fingerprint[:12]}{len(self._log.requests)}",
            model=conversation.model,
            created=int(recorded.at.timestamp()),
        )
        return ScriptedResponse(
            reply=reply,
            envelope=envelope,
            usage=used(reply, conversation),
            is_streamed=bool(body.get("stream")),
            closing=self._closing,
        )

    async def _record(self, request: Request, conversation: Conversation) -> RecordedRequest:
        session_id = request.headers.get("x-session-id")
        recorded = RecordedRequest(
            at=now(),
            model=conversation.model,
            prompt=conversation.text,
            session_id=session_id,
            number=conversation.number,
            attempt=self._log.count_attempt(session_id, conversation.fingerprint),
            is_title=conversation.is_title,
        )
        await self._log.add(recorded)
        return recorded

    def _reply_to(self, conversation: Conversation) -> Reply:
        if conversation.is_title:
            return _TITLE
        try:
            return due_reply(self._turn_for(conversation), conversation.number)
        except InvalidInput as error:
            return Reply(Fail(400, str(error)))

    def _turn_for(self, conversation: Conversation) -> Turn:
        for rule in self._rules:
            if rule.matches(conversation.text):
                return rule.turn
        for text in conversation.prompt:
            if (turn := parse_prompt(text)) is not None:
                return turn
        if self._default is not None:
            return self._default
        return as_turn(Say(f"You said: {conversation.text}"))

    def _is_authorized(self, request: Request) -> bool:
        if self._api_key is None:
            return True
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._api_key}".encode())


def provider_config(
    base_url: str, *, name: str = "scripted", model: str = "demo", api_key: str = "unused"
) -> dict[str, Any]:
    """OpenCode's configuration of a scripted model that runs elsewhere, as `ScriptedModel.provider_config` gives it."""
    provider = {
        "npm": PROVIDER_PACKAGE,
        "name": "Scripted model",
        "options": {"baseURL": base_url, "apiKey": api_key},
        "models": {
            model: {"name": model, "tool_call": True, "reasoning": True, "limit": {"context": 200_000, "output": 8_192}}
        },
    }
    return {"provider": {name: provider}, "small_model": f"{name}/{model}"}


_TITLE = Reply(Say("A scripted session"))
_WRONG_KEY = Fail(401, "Incorrect API key provided.")


class _Server(uvicorn.Server):
    """Uvicorn inside of somebody else's event loop: it leaves the signals alone and says when it listens."""

    def __init__(self, app: ASGIApp) -> None:
        quiet = logging.CRITICAL  # a dropped connection is what a script asks for, no error worth a line
        super().__init__(uvicorn.Config(app, log_config=None, log_level=quiet, lifespan="off", ws="none", http="h11"))
        self.has_started = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidInput(f"The scripted model cannot listen on {host}:{port}: {error.strerror}.") from error
    return listener


def _still_due(reply: Reply, attempt: int) -> Reply:
    """The reply without those errors that came as often as they should."""
    steps = [
        step
        for step in reply.steps
        if not (isinstance(step, Fail | CutStream) and step.times is not None and attempt > step.times)
    ]
    return Reply(steps, first_token_after=reply.first_token_after, usage=reply.usage)
