"""The client against servers that behave, and servers that do not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import anyio
import pytest
import respx

from cnap_runner.errors import (
    AnswerNotPending,
    ServerNotReady,
    ServerRefusedPassword,
    ServerRejected,
    ServerUnreachable,
    SessionNotFound,
    UnsupportedServerVersion,
)
from cnap_runner.model.mcp import McpState
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.events import PermissionAsked, QuestionAsked, ServerEvent, SessionStatus, parse_event
from cnap_runner.opencode.trouble import ConnectionLost, SettingsRefused
from cnap_runner.opencode.version import check_version
from cnap_runner.opencode.wire import FilePart, Prompt
from cnap_runner.testing.fake_opencode import (
    Ask,
    AskQuestion,
    BrokenDatabaseOpenCode,
    FakeOpenCode,
    GarblingOpenCode,
    HangingOpenCode,
    LosesAnswerOpenCode,
    MisreadingOpenCode,
    Say,
    Version2OpenCode,
)

PASSWORD = "pass-of-the-tests"
SOON = timedelta(milliseconds=200)
AMPLE = timedelta(seconds=5)


async def test_handshake_tells_version(client: OpenCodeClient) -> None:
    """A handshake with a server of the supported range returns its version."""
    assert await client.handshake(timeout=AMPLE) == "1.18.33"


@pytest.mark.parametrize("version", ["1.18.0", "1.18.33", "1.99.1", "v1.20.0", "1.18.33-beta.1"])
def test_versions_within_bounds_are_taken(version: str) -> None:
    """Both bounds of the tested range, and what lies between."""
    check_version(version)


@pytest.mark.parametrize("version", ["1.17.99", "0.9.0", "2.0.0", "2.1.3", "10.0.0", "", "local", "1.18"])
def test_versions_outside_of_bounds_are_refused(version: str) -> None:
    """A newer major version passes a minimum check by number, so the upper bound refuses it."""
    with pytest.raises(UnsupportedServerVersion):
        check_version(version)


async def test_version_2_server_is_named_as_the_problem() -> None:
    """A server that has no /global/health is refused as unsupported before anything else fails."""
    async with Version2OpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        with pytest.raises(UnsupportedServerVersion, match="no OpenCode of version 1"):
            await client.handshake(timeout=AMPLE)


async def test_wrong_password_is_refused_and_not_shown(server: FakeOpenCode) -> None:
    """A wrong password is its own error, which does not carry it."""
    async with OpenCodeClient(server.base_url, "a-wrong-password") as client:
        with pytest.raises(ServerRefusedPassword) as caught:
            await client.handshake(timeout=AMPLE)
    assert "a-wrong-password" not in f"{caught.value!r} {caught.value}"


async def test_healthy_is_not_ready() -> None:
    """A server that says it is healthy and cannot read its database does not pass the probe."""
    async with BrokenDatabaseOpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        await client.handshake(timeout=AMPLE)
        with pytest.raises(ServerNotReady, match="not with data"):
            await client.probe(timeout=AMPLE)


async def test_server_that_never_answers_is_not_waited_for() -> None:
    """A port that accepts and never answers ends the handshake at its deadline."""
    async with HangingOpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        with pytest.raises(ServerNotReady, match="did not answer"):
            await client.handshake(timeout=SOON)


async def test_closed_port_is_unreachable_and_nothing_was_sent() -> None:
    """A refused connection is told apart from one that broke: the prompt certainly never left."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with OpenCodeClient(f"http://127.0.0.1:{port}", PASSWORD) as client:
        with pytest.raises(ServerUnreachable) as caught:
            await client.send_prompt("ses_x", Prompt(texts=("Hi",)))
    assert not isinstance(caught.value, ConnectionLost)


async def test_f16_prompt_is_one_request_even_when_its_answer_is_lost() -> None:
    """A prompt whose answer is lost raises `ConnectionLost` and is not sent again."""
    async with LosesAnswerOpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        session_id = await client.create_session(title="t")
        with pytest.raises(ConnectionLost):
            await client.send_prompt(session_id, Prompt(texts=("Hi",)))
    assert server.prompts == ["Hi"]


async def test_prompt_carries_files_system_and_model(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """Files travel as data URLs; a model's own name may contain slashes."""
    prompt = Prompt(
        texts=("one", "two"),
        files=(FilePart("a.txt", "text/plain", b"hello"),),
        system="be kind",
        model="router/family/model-1",
    )
    await client.send_prompt(await client.create_session(title="t"), prompt)
    assert server.bodies == [
        {
            "parts": [
                {"type": "text", "text": "one"},
                {"type": "text", "text": "two"},
                {"type": "file", "mime": "text/plain", "filename": "a.txt", "url": "data:text/plain;base64,aGVsbG8="},
            ],
            "system": "be kind",
            "model": {"providerID": "router", "modelID": "family/model-1"},
        }
    ]


async def test_unknown_session_is_named(client: OpenCodeClient) -> None:
    """Calls about a session that is gone raise `SessionNotFound`; whether it is busy is answered without an error."""
    assert not await client.is_busy("ses_gone")
    with pytest.raises(SessionNotFound):
        await client.messages("ses_gone")
    with pytest.raises(SessionNotFound):
        await client.send_prompt("ses_gone", Prompt(texts=("Hi",)))


async def test_stream_tells_events_until_the_server_ends_it(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """Inside the context the subscription stands: what a prompt sent then brings about is told."""
    session_id = await client.create_session(title="t")
    seen: list[object] = []
    async with client.events() as events:
        await client.send_prompt(session_id, Prompt(texts=("Hi",)))
        async for text in events:
            seen.append(event := parse_event(text))
            if event == SessionStatus(session_id, "idle"):
                await server.streams.drop()
    assert SessionStatus(session_id, "busy") in seen
    assert len(await client.messages(session_id)) == 2
    assert [message.role for message in await client.messages(session_id, limit=1)] == ["assistant"]


async def test_line_separators_inside_text_do_not_cut_events(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """Characters that Python takes for line ends are ordinary text of an event."""
    odd = "a\u2028b\u2029c\x85d\x0be\x1cf"
    server.script([Say(odd)])
    session_id = await client.create_session(title="t")
    async with client.events() as events:
        await client.send_prompt(session_id, Prompt(texts=("Hi",)))
        deltas = [getattr(event, "text", "") async for event in _until_idle(events, session_id)]
    assert odd in deltas


async def test_garbage_on_the_stream_is_an_error() -> None:
    """What is no JSON raises; it is never passed over in silence."""
    async with GarblingOpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        session_id = await client.create_session(title="t")

        async def listen() -> None:
            async with client.events() as events:
                await client.send_prompt(session_id, Prompt(texts=("Hi",)))
                async for text in events:
                    parse_event(text)

        with pytest.raises(ServerRejected, match="no JSON"):
            await listen()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"{garbage"),
        (200, b'{"a": 1}'),
        (200, b'[{"info": []}]'),
        (200, b'[{"info": {"id": "msg_1"}}]'),
        (400, b"<html>"),
    ],
)
async def test_answers_that_cannot_be_understood_are_rejected(status: int, body: bytes) -> None:
    """Garbage, other shapes and plain errors all become `ServerRejected`."""
    async with OpenCodeClient("http://server.test", PASSWORD) as client:
        with respx.mock() as routes:
            routes.get("http://server.test/session/ses_1/message").respond(status, content=body)
            with pytest.raises(ServerRejected):
                await client.messages("ses_1")


async def test_redirects_are_not_followed() -> None:
    """The password goes to the server's own address and nowhere else."""
    async with OpenCodeClient("http://server.test", PASSWORD) as client:
        with respx.mock(assert_all_called=False) as routes:
            routes.get("http://server.test/session/status").respond(302, headers={"location": "http://evil.test/"})
            elsewhere = routes.get("http://evil.test/").respond(200, json={})
            with pytest.raises(ServerRejected):
                await client.is_busy("ses_1")
    assert not elsewhere.called


async def test_closing_twice_is_fine(server: FakeOpenCode) -> None:
    """`aclose` is idempotent."""
    client = OpenCodeClient(server.base_url, PASSWORD)
    await client.probe(timeout=AMPLE)
    await client.aclose()
    await client.aclose()


async def _until_idle(events: AsyncIterator[str], session_id: str) -> AsyncIterator[ServerEvent]:
    async for text in events:
        event = parse_event(text)
        if event == SessionStatus(session_id, "idle"):
            return
        yield event


async def test_mcp_servers_come_by_name_with_their_state() -> None:
    """OpenCode's own words, and why one failed."""
    async with FakeOpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        server.mcp = {"b": {"status": "failed", "error": "gone"}, "a": {"status": "connected"}}
        assert await client.mcp(timeout=AMPLE) == [McpState("a", "connected"), McpState("b", "failed", "gone")]


async def test_settings_that_cannot_be_read_are_told_as_such() -> None:
    """Asking again would not help, so it is no `ServerNotReady`; what the server read, which may be secret, is not repeated."""
    async with MisreadingOpenCode(PASSWORD) as server, OpenCodeClient(server.base_url, PASSWORD) as client:
        await client.probe(timeout=AMPLE)
        await client.dispose()
        with pytest.raises(SettingsRefused, match=r"mcp\.x\.command: Expected array\.") as raised:
            await client.probe(timeout=AMPLE)
    assert "secret-value" not in str(raised.value)


async def test_what_waits_is_read_and_answered_once(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """Permissions and questions of all sessions; a second reply finds that nothing waits any more."""
    server.script([Ask("bash", ("ls",)), AskQuestion("Which?", "And?"), Say("done")])
    session_id = await client.create_session(title="t")
    await client.send_prompt(session_id, Prompt(texts=("x",)))
    with anyio.fail_after(5):
        while len(waits := await client.waits()) < 2:
            await anyio.sleep(0.01)
    permission, question = waits
    assert isinstance(permission, PermissionAsked)
    assert isinstance(question, QuestionAsked)
    assert (permission.permission, permission.patterns, len(question.questions)) == ("bash", ("ls",), 2)
    await client.reply_to_permission(permission.request_id, "reject", message="no")
    await client.reply_to_question(question.request_id, [["a"], ["b", "c"]])
    assert server.waits.replies == {
        permission.request_id: {"reply": "reject", "message": "no"},
        question.request_id: {"answers": [["a"], ["b", "c"]]},
    }
    assert await client.waits() == []
    for again in (
        client.reply_to_permission(permission.request_id, "once"),
        client.reply_to_question(question.request_id, []),
        client.reject_question(question.request_id),
    ):
        with pytest.raises(AnswerNotPending):
            await again
