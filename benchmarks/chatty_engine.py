"""An engine's socket on which any container exists and prints so many lines each second: ``python -m benchmarks.chatty_engine SOCKET RATE``."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime

VERSION = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
TEXT = "level=INFO message=stream providerID=scripted modelID=demo session.id=ses_0123456789 agent=build mode=primary"


async def main(path: str, rate: float) -> None:
    """Serve until killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                await answer(request.split(b" ", 2)[1].decode(), writer, rate)

    server = await asyncio.start_unix_server(serve, path)
    print("ready", flush=True)
    await server.serve_forever()


async def answer(target: str, writer: asyncio.StreamWriter, rate: float) -> None:
    """Answer what is asked before a stream, and streams."""
    if "/logs" in target:
        await print_lines(writer, rate)
        return
    config = {"Tty": False}
    state = {"Status": "running", "Running": True, "Paused": False, "StartedAt": "2026-01-01T00:00:00Z"}
    body = json.dumps(
        VERSION if target.endswith("/version") else {"Id": "c", "State": state, "Config": config}
    ).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def print_lines(writer: asyncio.StreamWriter, rate: float) -> None:
    """Print in bursts, as a server at work does; at a rate of 0 nothing."""
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while not writer.is_closing():
        await writer.drain()
        await asyncio.sleep(1)
        for _ in range(round(rate)):
            content = f"{datetime.now(UTC).isoformat().replace('+00:00', 'Z')} {TEXT}\n".encode()
            frame = b"\x02\0\0\0" + len(content).to_bytes(4, "big") + content
            writer.write(f"{len(frame):x}\r\n".encode() + frame + b"\r\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], float(sys.argv[2])))
