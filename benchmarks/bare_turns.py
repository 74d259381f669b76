"""``python -m benchmarks.bare_turns``: turns by bare httpx, in a process of its own: neither side pays for the other's work.

Its standard input carries one JSON object a line: first the server's ``base_url`` and ``password``, then commands. ``do: session`` makes
a new session and does its first turn, ``do: turn`` does one in it. Each is answered with one line: the answer's text, and what it took.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from subprocess import PIPE
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.bare import BareClient
from benchmarks.rounds import Cost, Meter

LONGEST_LINE = 10_000


@dataclass(frozen=True)
class BareTurns:
    """The process, as seen from the one that measures."""

    commands: ByteSendStream
    answers: BufferedByteReceiveStream

    async def new_session(self, prompt: str) -> None:
        """Make a new session and do its first turn, which does not count."""
        await self._ask({"do": "session", "prompt": prompt})

    async def turn(self, prompt: str) -> tuple[str, Cost]:
        """Do one turn; gives its answer, and what it took over there."""
        answer = await self._ask({"do": "turn", "prompt": prompt})
        return answer["text"], Cost(**answer["cost"])

    async def _ask(self, command: Mapping[str, str]) -> Any:
        await self.commands.send(_line(command))
        return json.loads(await self.answers.receive_until(b"\n", LONGEST_LINE))


@asynccontextmanager
async def bare_turns(bare: BareClient) -> AsyncIterator[BareTurns]:
    """Run the process for as long as the context is open. It uses the same server as ``bare``, by connections of its own."""
    argv = [sys.executable, "-m", "benchmarks.bare_turns"]
    async with await anyio.open_process(argv, stdin=PIPE, stdout=PIPE, stderr=None) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("The process has no pipes.")
        try:
            await process.stdin.send(_line({"base_url": bare.base_url, "password": bare.password}))
            yield BareTurns(process.stdin, BufferedByteReceiveStream(process.stdout))
        finally:
            process.terminate()


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def _serve() -> None:
    session_id = ""
    where = await _read()
    async with BareClient(where["base_url"], where["password"]) as bare, bare.kept_stream() as stream:
        while command := await _read():
            if command["do"] == "session":
                session_id = await bare.create_session()
            meter = Meter()
            text = await bare.turn_on(stream, session_id, command["prompt"])
            sys.stdout.buffer.write(_line({"text": text, "cost": asdict(meter.read())}))
            sys.stdout.buffer.flush()


async def _read() -> Any:
    """Read the next command; none where the other side is gone."""
    line = await anyio.to_thread.run_sync(sys.stdin.buffer.readline, abandon_on_cancel=True)
    return json.loads(line) if line else None


if __name__ == "__main__":
    anyio.run(_serve)
