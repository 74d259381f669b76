"""FakeOpenCode: the fake server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from cnap_runner.testing.fake_opencode.http import HttpServer, Request, Response, answer
from cnap_runner.testing.fake_opencode.player import Player
from cnap_runner.testing.fake_opencode.script import Say, Step
from cnap_runner.testing.fake_opencode.sessions import FakeSession, Json, new_id
from cnap_runner.testing.fake_opencode.streams import Streams
from cnap_runner.testing.fake_opencode.waits import Waits

DEFAULT_MODEL = {"providerID": "fake", "modelID": "demo"}


class FakeOpenCode:
    """A fake OpenCode server on loopback, as an async context manager.

    Turns are played in the order of `script`; where none is left, the answer is the prompt, in capitals. Sessions outlive `kill`
    and `start`, as they do on the real server's disk. It lives on the event loop of its test.
    """

    def __init__(self, password: str, *, version: str = "1.18.33") -> None:
        self._authorization = "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode()
        self._version = version
        self._http = HttpServer(self._handle)
        self._turns: list[tuple[Step, ...]] = []
        self._released = asyncio.Event()
        self.streams = Streams()
        self.waits = Waits()
        self.sessions: dict[str, FakeSession] = {}
        self.prompts: list[str] = []
        """The text of every prompt that arrived, oldest first."""
        self.bodies: list[Json] = []
        """The same, whole."""
        self.mcp: dict[str, Json] = {}
        """What ``GET /mcp`` answers."""
        self.requests: list[str] = []
        """``METHOD /path`` of every request that arrived with the right password, oldest first."""

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Listen; after `kill`, on the same port and with the same sessions."""
        await self._http.start()

    async def kill(self) -> None:
        """End as with SIGKILL: connections break, turns stop where they are and leave their messages unfinished."""
        turns = [session.turn for session in self.sessions.values() if session.turn is not None]
        for session in self.sessions.values():
            session.turn, session.status = None, None
            session.publish = _to_nobody
        for turn in turns:
            turn.cancel()
        self.waits.forget()
        await self._http.kill()
        await asyncio.gather(*turns, return_exceptions=True)
        for session in self.sessions.values():
            session.publish = self.streams.publish

    async def dispose(self) -> None:
        """Forget the settings; streams end, as they do on the real server."""
        await self.streams.drop()

    def script(self, *turns: Sequence[Step]) -> None:
        """Add turns to be played, one per prompt."""
        self._turns += [tuple(turn) for turn in turns]

    def release(self) -> None:
        """Let turns that wait in `Hold` go on, now and later."""
        self._released.set()

    def add_session(self, title: str = "") -> str:
        """Make a session and return its id."""
        session = FakeSession(new_id("ses"), self.streams.publish, title)
        self.sessions[session.id] = session
        return session.id

    def forget_session(self, session_id: str) -> None:
        """Lose a session, as when the server's disk was wiped."""
        session = self.sessions.pop(session_id)
        turn, session.turn = session.turn, None
        if turn is not None:
            turn.cancel()

    # --- what a subclass with a trouble changes -------------------------------------------------------------------------

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        if request.headers.get("authorization") != self._authorization:
            return Response(401)
        self.requests.append(f"{request.method} {request.path}")
        if request.path == "/event":
            await self.streams.serve(writer)
            return None
        return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        match (request.method, request.path.strip("/").split("/")):
            case ("GET", ["global", "health"]):
                return answer({"healthy": True, "version": self._version})
            case (_, ["session", *rest]):
                return await self._answer_sessions(request, rest)
            case (_, ["permission" | "question", *_] as parts):
                return self.waits.answer(request, parts)
            case ("GET", ["mcp"]):
                return answer(self.mcp)
            case ("POST", ["instance", "dispose"]):
                await self.dispose()
                return answer(value=True)
        return Response(200, b"<!doctype html>", "text/html")

    async def _answer_sessions(self, request: Request, rest: list[str]) -> Response:
        match (request.method, rest):
            case ("GET", []):
                listed = [_listed(session) for session in self.sessions.values()]
                return answer(listed[: int(request.query.get("limit", 100))])
            case ("POST", []):
                return answer(_listed(self.sessions[self.add_session(request.json().get("title", ""))]))
            case ("GET", ["status"]):
                return answer({each.id: each.status for each in self.sessions.values() if each.status is not None})
        session = self.sessions.get(rest[0])
        if session is None:
            return answer({"name": "NotFoundError", "data": {"message": f"Session not found: {rest[0]}"}}, 404)
        return await self._answer_session(session, request, rest[1:])

    async def _answer_session(self, session: FakeSession, request: Request, rest: list[str]) -> Response:
        match (request.method, rest):
            case ("GET", []):
                return answer(_listed(session))
            case ("GET", ["message"]):
                return answer(session.messages[-int(request.query.get("limit", 0)) :])
            case ("PATCH", ["message", message_id, "part", part_id]):
                return _replace_part(session, message_id, part_id, request.json())
            case ("POST", ["prompt_async"]):
                return await self._take_prompt(session, request)
            case ("POST", ["abort"]):
                if session.turn is not None:
                    session.turn.cancel()
                return answer(value=True)
        return Response(404)

    async def _take_prompt(self, session: FakeSession, request: Request) -> Response:
        body = request.json()
        texts = [part["text"] for part in body["parts"] if part["type"] == "text"]
        self.bodies.append(body)
        self.prompts.append("\n".join(texts))
        model: Json = body.get("model", DEFAULT_MODEL)
        session.add_user_message(texts, model)
        if session.status is None:
            steps = self._turns.pop(0) if self._turns else (Say(self.prompts[-1].upper()),)
            player = Player(session, self.streams, self.waits, released=self._released, model=model)
            session.turn = asyncio.create_task(player.play(steps), name="fake-turn")
        return Response(204)


def _listed(session: FakeSession) -> Json:
    return {"id": session.id, "title": session.title}


def _replace_part(session: FakeSession, message_id: str, part_id: str, part: Json) -> Response:
    for message in session.messages:
        for number, present in enumerate(message["parts"]):
            if (message["info"]["id"], present["id"]) == (message_id, part_id):
                message["parts"][number] = part
                session.publish_part(part)
                return answer(part)
    return Response(404)


def _to_nobody(_kind: str, _properties: dict[str, Any]) -> None:
    """A server that was killed tells nothing more."""
