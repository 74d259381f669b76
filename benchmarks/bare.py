"""OpenCode by bare httpx: what one would write for one server, without this package."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from cnap_runner.opencode.turn import FIRST_PAGE

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05
"""Seconds between two questions whether the server is ready: the same as in `cnap_runner.runner.readiness`."""
FIRST_PATIENCE = 0.25
LONGEST_PATIENCE = 5.0
"""Seconds for one of them, doubling when it is not answered: the same, too. A server that boots swallows what comes too early."""
READY_SECONDS = 60.0
PAGE = FIRST_PAGE
MODEL = {"providerID": "scripted", "modelID": "demo"}
"""Named with each prompt, as `Runner.run` does. Without it the server was faster by 10 ms and more (seen on a busy machine)."""

Listener = Callable[[str], None]


class BareClient:
    """One server. Believes all it is told: no reconnecting, no second look at how a turn ended, nothing redacted or recorded."""

    def __init__(self, base_url: str, password: str) -> None:
        # Without `verify=False` each client would read the world's certificates first, 20 ms that no plain connection needs.
        self._http = httpx.AsyncClient(base_url=base_url, auth=("opencode", password), timeout=30, verify=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def wait_until_ready(self) -> None:
        """Ask for sessions until there is data; raises `TimeoutError` after a minute."""
        deadline = time.monotonic() + READY_SECONDS
        pause, patience = FIRST_PAUSE, FIRST_PATIENCE
        while True:
            try:
                if await self._has_data(patience):
                    return
            except httpx.TimeoutException:
                patience = min(patience * 2, LONGEST_PATIENCE)
            if time.monotonic() > deadline:
                raise TimeoutError("The plain container's server did not become ready.")
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    async def version(self) -> str:
        """Tell the server's version."""
        return str((await self._get("/global/health"))["version"])

    async def create_session(self) -> str:
        """Make a session and return its id."""
        response = await self._http.post("/session", json={"title": "bare"})
        return str(response.raise_for_status().json()["id"])

    async def turn(self, session_id: str, prompt: str, *, listener: Listener | None = None) -> str:
        """Send one prompt and return the answer: the calls that `Runner.run` makes, in its order."""
        if session_id in await self._get("/session/status"):
            raise RuntimeError("The session is busy.")
        await self._get(f"/session/{session_id}/message", limit=1)
        async with self._http.stream("GET", "/event") as stream:
            stream.raise_for_status()
            body = {"parts": [{"type": "text", "text": prompt}], "model": MODEL}
            (await self._http.post(f"/session/{session_id}/prompt_async", json=body)).raise_for_status()
            await _follow(stream, session_id, listener)
        messages = await self._get(f"/session/{session_id}/message", limit=PAGE)
        return "".join(part["text"] for part in messages[-1]["parts"] if part["type"] == "text")

    async def _has_data(self, patience: float) -> bool:
        try:
            response = await self._http.get("/session", params={"limit": 1}, timeout=patience)
        except httpx.TimeoutException:
            raise
        except httpx.TransportError:
            return False
        return response.status_code == httpx.codes.OK and isinstance(response.json(), list)

    async def _get(self, path: str, **params: int) -> Any:
        response = await self._http.get(path, params=params)
        return response.raise_for_status().json()


async def _follow(stream: httpx.Response, session_id: str, listener: Listener | None) -> None:
    """Read events until the session is idle, and hand on the fragments of its answer."""
    async for line in stream.aiter_lines():
        if not line.startswith("data:"):
            continue
        event = json.loads(line[5:])
        said = event["properties"]
        if said.get("sessionID") != session_id:
            continue
        if event["type"] == "message.part.delta" and listener is not None:
            listener(said["delta"])
        elif event["type"] == "session.status" and said["status"]["type"] == "idle":
            return
    raise RuntimeError("The stream ended before the turn did.")
