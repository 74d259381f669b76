"""Fake servers named by their failure."""

from __future__ import annotations

import asyncio

from cnap_runner.testing.fake_opencode.http import NoAnswer, Request, Response, answer
from cnap_runner.testing.fake_opencode.server import FakeOpenCode
from cnap_runner.testing.fake_opencode.sessions import FakeSession


class LosesAnswerOpenCode(FakeOpenCode):
    """Takes the prompt and plays its turn, but the connection breaks before the 204."""

    async def _take_prompt(self, session: FakeSession, request: Request) -> Response:
        await super()._take_prompt(session, request)
        raise NoAnswer


class DeafOpenCode(FakeOpenCode):
    """The connection breaks before the prompt is understood: it is never played."""

    async def _take_prompt(self, session: FakeSession, request: Request) -> Response:  # noqa: ARG002 - a hook
        self.prompts.append("")
        raise NoAnswer


class SilentOpenCode(FakeOpenCode):
    """Its streams open and never say anything."""

    async def start(self) -> None:
        """Listen."""
        self.streams.stay_mute = True
        await super().start()


class GarblingOpenCode(FakeOpenCode):
    """Its first stream carries something that is no event, as soon as a prompt arrives."""

    async def _take_prompt(self, session: FakeSession, request: Request) -> Response:
        self.streams.write_raw(b"data: {nonsense\n\n")
        return await super()._take_prompt(session, request)


class HangingOpenCode(FakeOpenCode):
    """Accepts connections and never answers, as a published port does before the server listens."""

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:  # noqa: ARG002 - a hook
        await asyncio.Event().wait()
        raise NoAnswer


class BrokenDatabaseOpenCode(FakeOpenCode):
    """Says that it is healthy, and fails every call about sessions."""

    async def _answer(self, request: Request) -> Response:
        if request.path.startswith("/session"):
            return answer({"name": "UnknownError", "data": {"message": "Unexpected server error."}}, 500)
        return await super()._answer(request)


class Version2OpenCode(FakeOpenCode):
    """Knows none of the version 1 routes: an unknown path is answered with its web page."""

    async def _answer(self, request: Request) -> Response:  # noqa: ARG002 - a hook
        return Response(200, b"<!doctype html>", "text/html")


class MisreadingOpenCode(FakeOpenCode):
    """Cannot read the settings it is told to read again: from then on every call about its workspace fails, for ever."""

    _has_failed = False

    async def dispose(self) -> None:
        """Read settings that are wrong."""
        await super().dispose()
        self._has_failed = True

    async def _answer(self, request: Request) -> Response:
        if self._has_failed and not request.path.startswith("/global/"):
            issues = [{"path": ["mcp", "x", "command"], "message": "Expected array, got secret-value"}]
            return answer({"name": "ConfigInvalidError", "data": {"path": "/opencode.json", "issues": issues}}, 500)
        return await super()._answer(request)
