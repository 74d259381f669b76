"""What an interruption left unfinished in a session."""

from __future__ import annotations

from datetime import timedelta

import anyio

from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.repair import mend
from cnap_runner.opencode.sessions import prepare
from cnap_runner.opencode.wire import Prompt
from cnap_runner.testing.fake_opencode import FakeOpenCode
from cnap_runner.testing.fake_opencode.script import Say, UseTool

SOON = timedelta(seconds=5)


async def cut_off(server: FakeOpenCode, client: OpenCodeClient) -> str:
    """A session whose last message has a tool that its dead server had begun."""
    server.script([Say("Let me see."), UseTool("bash", {"command": "sleep 60"}, is_endless=True)])
    session_id = await client.create_session(title="t")
    await client.send_prompt(session_id, Prompt(("go",)))
    with anyio.fail_after(5):
        while not (messages := await client.messages(session_id)) or not messages[-1].has_running_tool:
            await anyio.sleep(0.01)
    await server.kill()
    await server.start()
    return session_id


async def test_f12_a_tool_that_was_left_running_is_ended_with_the_reason_and_nothing_else_changes(
    server: FakeOpenCode, client: OpenCodeClient
) -> None:
    """Whoever looks at the session does not wait for it; doing so again changes nothing."""
    session_id = await cut_off(server, client)
    assert await mend(client, session_id, reason="the server was killed") == ["bash"]
    last = (await client.messages(session_id))[-1]
    (call,) = [part.call for part in last.parts if part.call is not None]
    assert (call.status, call.error) == ("error", "Interrupted: the server was killed")
    assert (call.input, last.text, last.cut_off_tool) == ({"command": "sleep 60"}, "Let me see.", "bash")
    assert await mend(client, session_id, reason="again") == []


async def test_f12_the_next_turn_of_a_session_that_was_cut_off_begins_at_once(
    server: FakeOpenCode, client: OpenCodeClient
) -> None:
    """It is idle, it is mended on the way, and a prompt is answered."""
    session_id = await cut_off(server, client)
    before = await client.messages(session_id)
    assert await prepare(client, session_id, timeout=SOON) == before[-1].id
    assert not (await client.messages(session_id))[-1].has_running_tool


async def test_an_empty_session_needs_no_repair(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """There is nothing to end."""
    assert await mend(client, server.add_session(), reason="x") == []
