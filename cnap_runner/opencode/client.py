"""The calls of OpenCode's REST API that we use, and its stream of events."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import anyio
import httpx
import httpx_sse

from cnap_runner.aio.both import both
from cnap_runner.errors import (
    AnswerNotPending,
    ServerNotReady,
    ServerRejected,
    UnsupportedServerVersion,
)
from cnap_runner.model.mcp import McpState
from cnap_runner.opencode.bounds import BoundedTransport
from cnap_runner.opencode.events import PermissionAsked, QuestionAsked, parse_permission, parse_question
from cnap_runner.opencode.trouble import SettingsRefused, json_of, refuse, translated
from cnap_runner.opencode.version import check_version
from cnap_runner.opencode.wire import (
    Prompt,
    SessionMessage,
    as_list,
    as_object,
    id_of,
    parse_message,
    text_of,
)

USER: Final = "opencode"
CALL_TIMEOUT: Final = timedelta(seconds=30)
"""For one call. Each takes milliseconds, but a starved server may take seconds."""
SILENCE: Final = timedelta(seconds=25)
"""A stream that says nothing for so long is dead: the server sends a heartbeat every 10 s."""

OPENING: Final = timedelta(seconds=10)
"""For a stream to open. It takes milliseconds, or a second in a fresh process; one that boots may take the request and never answer."""

Wrap = Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]


class OpenCodeClient:
    """One server's API. Calls may run at the same time; none is ever repeated by itself.

    Any call raises `ServerUnreachable` where no connection came about (the request certainly never left), `ConnectionLost`
    where it broke later, `ServerRefusedPassword`, and `ServerRejected` for an error of the server or an answer that cannot be
    understood; calls about a session raise `SessionNotFound`. Errors carry no secrets: neither the password nor a prompt.
    """

    def __init__(self, base_url: str, password: str, *, wrap: Wrap | None = None) -> None:
        """``wrap`` puts something around each call, such as a span of a trace."""
        self._base_url = base_url
        # `trust_env`: a proxy of the manager's environment is not for its own containers.
        inner = httpx.AsyncHTTPTransport(trust_env=False, verify=_verification(base_url))
        self._transport: httpx.AsyncBaseTransport = BoundedTransport(inner)
        if wrap is not None:
            self._transport = wrap(self._transport)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": _authorization(password), "Accept-Encoding": "identity"},
            follow_redirects=False,  # the password goes to this address alone
            transport=self._transport,
        )
        self._headers = list(self._http.headers.raw)
        self._timeout = httpx.Timeout(CALL_TIMEOUT.total_seconds()).as_dict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections. Idempotent."""
        await self._http.aclose()

    async def handshake(self, *, timeout: timedelta) -> str:
        """Check that this is a server we know, and return its version.

        Asks nothing of the workspace: a server that passes may still not be ready, see `probe`. Raises `ServerNotReady`
        where it does not answer within ``timeout``, `UnsupportedServerVersion` outside of the tested range.
        """
        try:
            health = await self._get_json("/global/health", timeout=timeout)
        except ServerRejected as error:
            if error.status is not None and error.status >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise ServerNotReady(f"The server is not healthy: {error.message}") from error
            raise UnsupportedServerVersion(
                f"What answers at {self._base_url} has no /global/health: it is no OpenCode of version 1, maybe one of 2 or later."
            ) from error
        version = text_of(health, "version") if isinstance(health, dict) else ""
        check_version(version)
        if health.get("healthy") is not True:
            raise ServerNotReady("The server says that it is not healthy.")
        return version

    async def probe(self, *, timeout: timedelta) -> None:
        """Make sure that the server answers with data of its workspace: it can read its database and its settings.

        Raises `ServerNotReady` where it answers with an error, with no data, or not within ``timeout``; `SettingsRefused`.
        """
        try:
            as_list(await self._get_json("/session", params={"limit": 1}, timeout=timeout), "list of sessions")
        except SettingsRefused:
            raise
        except ServerRejected as error:
            raise ServerNotReady(f"The server answers, but not with data: {error.message}") from error

    async def create_session(self, *, title: str) -> str:
        """Make a session and return its id. With a title of ours no model is asked for one."""
        response = await self._request("POST", "/session", body={"title": title})
        return id_of(as_object(json_of(response), "session"), "id", "session")

    async def is_busy(self, session_id: str) -> bool:
        """Whether a turn of the session is under way, waiting for a retry included.

        False for some milliseconds after a prompt was taken (more than a second in a fresh process), and while a turn that
        failed or was aborted is tidied up. An unknown session is not busy.
        """
        status = as_object(await self._get_json("/session/status"), "status").get(session_id)
        return isinstance(status, dict) and text_of(status, "type") != "idle"

    async def messages(self, session_id: str, *, limit: int | None = None) -> list[SessionMessage]:
        """Read a session's messages, oldest first: all, or the last ``limit``."""
        params = None if limit is None else {"limit": limit}
        entries = await self._get_json(f"/session/{_quoted(session_id)}/message", params=params)
        return [parse_message(entry) for entry in as_list(entries, "list of messages")]

    async def entries(self, session_id: str, *, limit: int) -> list[dict[str, Any]]:
        """Read a session's last messages as OpenCode tells them, oldest first; to be written back with `update_part`."""
        entries = await self._get_json(f"/session/{_quoted(session_id)}/message", params={"limit": limit})
        return [dict(as_object(entry, "message")) for entry in as_list(entries, "list of messages")]

    async def update_part(self, session_id: str, part: Mapping[str, Any]) -> None:
        """Replace one part of a message, which names both ids. Not for a session in which a turn is under way."""
        message_id, part_id = id_of(part, "messageID", "part"), id_of(part, "id", "part")
        path = f"/session/{_quoted(session_id)}/message/{_quoted(message_id)}/part/{_quoted(part_id)}"
        await self._request("PATCH", path, body=part)

    async def send_prompt(self, session_id: str, prompt: Prompt) -> None:
        """Send a prompt, in exactly one request that is never repeated, and return as soon as the server took it.

        After `ServerUnreachable` (but not `ConnectionLost`) and after a rejection below 500 it was certainly not taken.
        """
        await self._request("POST", f"/session/{_quoted(session_id)}/prompt_async", body=prompt.to_json())

    async def abort(self, session_id: str) -> None:
        """End the turn that is under way. Nothing happens in an idle or unknown session."""
        await self._request("POST", f"/session/{_quoted(session_id)}/abort")

    async def waits(self) -> list[PermissionAsked | QuestionAsked]:
        """Read the permissions and questions that wait, of all sessions. Those of an aborted turn stay listed for ever (docs/opencode.md)."""
        permissions, questions = await both(self._get_json("/permission"), self._get_json("/question"))
        asked = [parse_permission(as_object(item, "permission")) for item in as_list(permissions, "permissions")]
        return [*asked, *(parse_question(as_object(item, "question")) for item in as_list(questions, "questions"))]

    async def reply_to_permission(
        self, request_id: str, reply: Literal["once", "always", "reject"], *, message: str | None = None
    ) -> None:
        """Reply to a permission that waits; ``message`` tells the agent why it is rejected. Raises `AnswerNotPending`.

        A rejection rejects all that wait in the same session.
        """
        body = {"reply": reply} if message is None else {"reply": reply, "message": message}
        await self._reply(f"/permission/{_quoted(request_id)}/reply", body)

    async def reply_to_question(self, request_id: str, answers: Sequence[Sequence[str]]) -> None:
        """Answer a question that waits: for each of its questions the labels that were chosen, or words. Raises `AnswerNotPending`."""
        await self._reply(f"/question/{_quoted(request_id)}/reply", {"answers": [list(answer) for answer in answers]})

    async def reject_question(self, request_id: str) -> None:
        """Tell the agent that its question is dismissed. Raises `AnswerNotPending`."""
        await self._reply(f"/question/{_quoted(request_id)}/reject", None)

    async def dispose(self) -> None:
        """Let the server forget what it read of its settings; it reads them again at the next call, which takes half a second.

        Its streams of events end, its MCP servers too. Settings it cannot read make every later call fail, this one included, until its
        process ends (docs/opencode.md).
        """
        await self._request("POST", "/instance/dispose")

    async def mcp(self, *, timeout: timedelta) -> list[McpState]:
        """Tell how the MCP servers are, by name. Raises `ServerNotReady` where one is still being connected after ``timeout``."""
        states = as_object(await self._get_json("/mcp", timeout=timeout), "MCP servers")
        return [
            McpState(name, text_of(state, "status"), text_of(state, "error") or None)
            for name, state in sorted(states.items())
            if isinstance(state, dict)
        ]

    def events(self, *, silence: timedelta = SILENCE) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Open one stream of events; each comes as the text that `parse_event` takes.

        Inside the context the subscription stands. The iterator ends when the server ends the stream; it raises
        `ConnectionLost` when the connection breaks or says nothing for ``silence``, `ServerRejected` for what is no stream of events.
        """
        return self._events(silence)

    @asynccontextmanager
    async def _events(self, silence: timedelta) -> AsyncIterator[AsyncIterator[str]]:
        timeout = httpx.Timeout(OPENING.total_seconds(), read=silence.total_seconds())
        async with AsyncExitStack() as stack:
            with translated():
                connection = httpx_sse.aconnect_sse(self._http, "GET", "/event", timeout=timeout)
                with anyio.fail_after(OPENING.total_seconds()):
                    source = await stack.enter_async_context(connection)
                if source.response.status_code != httpx.codes.OK:
                    await source.response.aread()
                    refuse(source.response)
            yield _texts(source)

    async def _get_json(
        self, path: str, *, params: Mapping[str, int] | None = None, timeout: timedelta | None = None
    ) -> Any:
        if timeout is None:
            return json_of(await self._request("GET", path, params=params))
        with anyio.move_on_after(timeout.total_seconds()):
            return json_of(await self._request("GET", path, params=params))
        raise ServerNotReady(f"The server did not answer {path} within {timeout.total_seconds():g} s.")

    async def _reply(self, path: str, body: Mapping[str, Any] | None) -> None:
        try:
            await self._request("POST", path, body=body)
        except ServerRejected as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            raise AnswerNotPending("OpenCode waits for that answer no more.") from error

    async def _request(
        self, method: str, path: str, *, params: Mapping[str, int] | None = None, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        request = self._made(method, path, params=params, body=body)
        with translated():
            # Straight to the transport: what a client adds, such as cookies, redirects and proxies, we have no use for, and it
            # takes as long as the rest of the request.
            response = await self._transport.handle_async_request(request)
            response.request = request
            try:
                await response.aread()
            finally:
                await response.aclose()
        if not response.is_success:
            refuse(response)
        return response

    def _made(
        self, method: str, path: str, *, params: Mapping[str, int] | None, body: Mapping[str, Any] | None
    ) -> httpx.Request:
        query = "" if params is None else "?" + "&".join(f"{name}={value}" for name, value in params.items())
        headers, content = self._headers, None
        if body is not None:
            headers = [*headers, (b"Content-Type", b"application/json")]
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        extensions = {"timeout": self._timeout}
        return httpx.Request(
            method, self._base_url + path + query, headers=headers, content=content, extensions=extensions
        )


async def _texts(source: httpx_sse.EventSource) -> AsyncIterator[str]:
    with translated():
        async for event in source.aiter_sse():
            if event.data:
                yield event.data


def _authorization(password: str) -> str:
    return "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode("ascii")


def _quoted(session_id: str) -> str:
    return quote(session_id, safe="")


def _verification(base_url: str) -> ssl.SSLContext | bool:
    """Spare a plain connection the 20 ms of loading the world's certificates; the empty context trusts none."""
    return True if base_url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
