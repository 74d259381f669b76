"""OpenCode by bare httpx: what one would write for one server, without this package."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from cnap_runner.opencode.sessions import FIRST_PAGE

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
        self.base_url, self.password = base_url, password
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
        """Send one prompt and return the answer, with a stream of its own: the calls of a first `Runner.run`, in its order."""
        await self._check_idle(session_id)
        async with self._http.stream("GET", "/event") as stream:
            stream.raise_for_status()
            await self._send(session_id, prompt)
            await _follow(stream, session_id, listener)
        return await self._answer(session_id)

    @asynccontextmanager
    async def kept_stream(self) -> AsyncIterator[KeptStream]:
        """Keep one stream of events open over turns, as `Runner.run` does."""
        async with self._http.stream("GET", "/event", timeout=None) as stream, anyio.create_task_group() as tasks:
            kept = KeptStream(stream.raise_for_status())
            tasks.start_soon(kept.read)
            yield kept
            tasks.cancel_scope.cancel()

    async def turn_on(self, stream: KeptStream, session_id: str, prompt: str) -> str:
        """Send one prompt and return the answer: the same as `turn`, on a stream that stands already."""
        await self._check_idle(session_id)
        idle = stream.expect_idle(session_id)
        await self._send(session_id, prompt)
        with anyio.fail_after(READY_SECONDS):
            await idle.wait()
        return await self._answer(session_id)

    async def _check_idle(self, session_id: str) -> None:
        if session_id in await self._get("/session/status"):
            raise RuntimeError("The session is busy.")
        await self._get(f"/session/{session_id}/message", limit=1)

    async def _send(self, session_id: str, prompt: str) -> None:
        body = {"parts": [{"type": "text", "text": prompt}], "model": MODEL}
        (await self._http.post(f"/session/{session_id}/prompt_async", json=body)).raise_for_status()

    async def _answer(self, session_id: str) -> str:
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


class KeptStream:
    """Reads events until it is cancelled, and knows who waits for which session to be idle."""

    def __init__(self, stream: httpx.Response) -> None:
        self._stream = stream
        self._waiting: dict[str, anyio.Event] = {}

    def expect_idle(self, session_id: str) -> anyio.Event:
        """Give what is set when a turn that begins from here on has ended."""
        idle = self._waiting[session_id] = anyio.Event()
        return idle

    async def read(self) -> None:
        """Read for ever."""
        async for line in self._stream.aiter_lines():
            # As ours: what comes while nobody waits, such as all that the other side's turns say, is not even parsed.
            if not self._waiting or not line.startswith("data:"):
                continue
            event = json.loads(line[5:])
            if event["type"] == "session.status" and event["properties"]["status"]["type"] == "idle":
                waiting = self._waiting.pop(event["properties"]["sessionID"], None)
                if waiting is not None:
                    waiting.set()


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
