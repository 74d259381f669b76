"""What an interruption left unfinished in a session, ended.

OpenCode ends nothing by itself: after its process was killed, a tool's part says ``running`` for ever (docs/opencode.md). The model is told
by OpenCode that such a call was interrupted, but whoever looks at the session would wait for it.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from cnap_runner.errors import ServerRejected, SessionNotFound
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.wire import INTERRUPTED_CALL, Json, text_of

_OPEN = frozenset({"pending", "running"})


async def mend(client: OpenCodeClient, session_id: str, *, reason: str) -> list[str]:
    """End the tool calls that are still open in the last message of a session in which nothing is under way; return the tools' names.

    Nothing else is changed. Idempotent. Raises as the client's calls do.
    """
    entries = await client.entries(session_id, limit=1)
    parts = entries[-1].get("parts") if entries else None
    open_parts = [part for part in parts or () if isinstance(part, dict) and _is_open(part)]
    for part in open_parts:
        # A server that does not take it leaves the part as it is: the model is told by OpenCode all the same.
        with contextlib.suppress(ServerRejected, SessionNotFound):
            await client.update_part(session_id, {**part, "state": _ended(_state(part), reason)})
    return [text_of(part, "tool") for part in open_parts]


def _is_open(part: Json) -> bool:
    return part.get("type") == "tool" and text_of(_state(part), "status") in _OPEN


def _state(part: Json) -> dict[str, Any]:
    state = part.get("state")
    return state if isinstance(state, dict) else {}


def _ended(state: Json, reason: str) -> dict[str, Any]:
    now = int(time.time() * 1000)
    begun = state.get("time")
    start = begun.get("start") if isinstance(begun, dict) else None
    ended: dict[str, Any] = {
        "status": "error",
        "input": state.get("input") or {},
        "error": f"{INTERRUPTED_CALL}{reason}",
        "time": {"start": start if isinstance(start, int) else now, "end": now},
    }
    return ended | ({"metadata": state["metadata"]} if isinstance(state.get("metadata"), dict) else {})
