"""A session between turns: whether it is at rest, made ready for the next prompt, and read since a message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import anyio

from cnap_runner.aio.both import both
from cnap_runner.errors import ServerNotReady
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.repair import mend
from cnap_runner.opencode.verdict import ends_turn, is_later, turn_messages
from cnap_runner.opencode.wire import SessionMessage

FIRST_PAGE = 8
"""Messages read at once; most turns have fewer. Longer ones are read again with more."""
FIRST_LOOK = 0.05
LAST_LOOK = 1.0
"""Seconds between two looks at a session that is idle and not done: doubling from the first to the last."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A session in which nothing is under way."""

    last_message_id: str | None
    """None: it is empty."""


async def at_rest(client: OpenCodeClient, session_id: str) -> Rest | None:
    """Look at a session, without waiting for anything; None where a turn is or may be under way. Raises `SessionNotFound`.

    Both questions are asked at once. An answer to the second may be older than the one to the first, so it counts only where it is
    the end of a turn.
    """
    is_busy, last = await both(client.is_busy(session_id), client.messages(session_id, limit=1))
    if is_busy or not all(ends_turn(message) for message in last):
        return None
    return Rest(last[-1].id if last else None)


async def prepare(client: OpenCodeClient, session_id: str, *, timeout: timedelta) -> str | None:
    """Wait until a session is idle and return the id of its last message; None for an empty one.

    Nothing is aborted; a tool's call that an interruption left open is ended. Raises `ServerNotReady` where it is still busy after ``timeout``, `SessionNotFound`.
    """
    pause = FIRST_LOOK
    with anyio.move_on_after(timeout.total_seconds()):
        rest = await at_rest(client, session_id)
        if rest is not None:
            return rest.last_message_id
        while await client.is_busy(session_id):
            await anyio.sleep(pause)
            pause = min(pause * 2, LAST_LOOK)
        await mend(client, session_id, reason="the server was ended")
        last = await client.messages(session_id, limit=1)
        return last[-1].id if last else None
    raise ServerNotReady(
        f"The session is still busy after {timeout.total_seconds():g} s.", hint="Abort what runs there."
    )


async def was_sent(client: OpenCodeClient, session_id: str, after_message_id: str | None) -> bool:
    """Whether a user message newer than that one is in the session. Raises `SessionNotFound`."""
    messages = await read_turn(client, session_id, after_message_id)
    return any(message.role == "user" for message in messages)


async def read_turn(client: OpenCodeClient, session_id: str, after_message_id: str | None) -> list[SessionMessage]:
    """Read the messages that came after one, and as few others as possible."""
    limit = FIRST_PAGE
    while True:
        page = await client.messages(session_id, limit=limit)
        if len(page) < limit or not is_later(page[0].id, after_message_id):
            return turn_messages(page, after_message_id)
        limit *= 8
