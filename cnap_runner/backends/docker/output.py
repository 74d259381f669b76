"""Output of containers: their logs, and what a command inside them prints."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import httpcore
from docker import APIClient

from cnap_runner.backends.docker.engine import Engine
from cnap_runner.backends.docker.framing import FrameDecoder, LineAssembler
from cnap_runner.backends.docker.options import LAYOUT
from cnap_runner.model.instance import ExecResult, LogLine

MAX_OUTPUT_BYTES = 1 << 20
_START = {"Detach": False, "Tty": False}
_CHUNK_BYTES = 1 << 16
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5


async def log_lines(
    engine: Engine, container_id: str, *, tail: int | None, is_following: bool, since: datetime | None = None
) -> AsyncGenerator[LogLine, None]:
    """Yield a container's output as lines. Raises `EngineRefusal` for a container that is gone."""
    params = {
        "stdout": 1,
        "stderr": 1,
        "timestamps": 1,
        "follow": int(is_following),
        "tail": "all" if tail is None else tail,
    }
    if since is not None:
        params["since"] = f"{since.timestamp():.6f}"
    decoder, lines = FrameDecoder(), LineAssembler()
    async with engine.stream("GET", f"/containers/{container_id}/logs", params=params) as response:
        async for chunk in response.aiter_raw():
            for frame in decoder.feed(chunk):
                for line in lines.add(frame):
                    yield line
    for line in lines.rest():
        yield line


async def last_words(engine: Engine, container_id: str, *, count: int) -> str:
    """Give the last lines of a container's output as one line."""
    words = [line.text.strip() async for line in log_lines(engine, container_id, tail=count, is_following=False)]
    return " | ".join(word for word in words if word)


async def run_command(engine: Engine, container_id: str, argv: Sequence[str], *, timeout: timedelta) -> ExecResult:
    """Run one command in a live container. Raises `EngineRefusal`, and `TimeoutError` where it takes longer."""

    def prepare(sdk: APIClient) -> str:
        made: dict[str, Any] = sdk.exec_create(container_id, list(argv), workdir=LAYOUT.workspace)
        return str(made["Id"])

    with anyio.fail_after(timeout.total_seconds()):
        exec_id = await engine.ask(prepare)
        output, is_truncated = await _collect(engine, exec_id)
        exit_code = await _exit_code(engine, exec_id)
    return ExecResult(exit_code=exit_code, output=output, is_truncated=is_truncated)


async def run_with_input(engine: Engine, container_id: str, argv: Sequence[str], *, content: bytes) -> ExecResult:
    """Run one command in a live container and write ``content`` to its standard input, as the container's user.

    The input is not ended: the command must know how much to read. Raises `EngineRefusal`.
    """

    def prepare(sdk: APIClient) -> str:
        made: dict[str, Any] = sdk.exec_create(container_id, list(argv), stdin=True)
        return str(made["Id"])

    exec_id = await engine.ask(prepare)
    async with engine.upgraded(f"/exec/{exec_id}/start", body=_START) as stream:
        with contextlib.suppress(httpcore.NetworkError):  # it ended without reading; its exit code says so
            await stream.write(content)
        output, is_truncated = await _collected(_chunks(stream))
    return ExecResult(await _exit_code(engine, exec_id), output, is_truncated=is_truncated)


async def _chunks(stream: httpcore.AsyncNetworkStream) -> AsyncGenerator[bytes, None]:
    while chunk := await stream.read(_CHUNK_BYTES):
        yield chunk


async def _collect(engine: Engine, exec_id: str) -> tuple[bytes, bool]:
    """Run a prepared command and keep what it prints."""
    async with engine.stream("POST", f"/exec/{exec_id}/start", body=_START) as response:
        return await _collected(response.aiter_raw())


async def _collected(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Keep the beginning of a command's output; the rest is read and dropped, or it would block."""
    output, is_truncated, decoder = bytearray(), False, FrameDecoder()
    async for chunk in chunks:
        for frame in decoder.feed(chunk):
            room = MAX_OUTPUT_BYTES - len(output)
            is_truncated = is_truncated or len(frame.content) > room
            output += frame.content[:room]
    return bytes(output), is_truncated


async def _exit_code(engine: Engine, exec_id: str) -> int:
    """Ask how a command ended: often a moment after its output, and long after it where it closed its output and went on."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        state: dict[str, Any] = await engine.ask(lambda sdk: sdk.exec_inspect(exec_id))
        if not state["Running"] and state["ExitCode"] is not None:
            return int(state["ExitCode"])
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
