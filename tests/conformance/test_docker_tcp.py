"""An engine that is reached by TCP, here through a relay to its socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import anyio.abc
import pytest

from cnap_runner.backends.docker import DockerBackend
from cnap_runner.backends.docker.address import engine_address
from cnap_runner.errors import EngineUnavailable
from cnap_runner.testing.backend_harness import GRACE, LIMIT_SECONDS, Harness, secrets

pytestmark = pytest.mark.engine


async def _pump(source: anyio.abc.SocketStream, target: anyio.abc.SocketStream) -> None:
    try:
        async for data in source:
            await target.send(data)
        await target.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return


async def _relay(client: anyio.abc.SocketStream) -> None:
    path = engine_address().socket_path
    if path is None:
        pytest.skip("the engine of these tests has no local socket")
    async with client, await anyio.connect_unix(path) as engine, anyio.create_task_group() as tasks:
        tasks.start_soon(_pump, client, engine)
        await _pump(engine, client)
        tasks.cancel_scope.cancel()


@pytest.fixture
async def tcp_host() -> AsyncIterator[str]:
    """The engine's address by TCP."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _relay)
        yield f"tcp://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610 - no Django
        tasks.cancel_scope.cancel()


async def test_a_life_over_tcp(docker_engine: Harness, tcp_host: str) -> None:
    """Secrets, output and events come through as on a local socket."""
    harness = replace(docker_engine, backend=DockerBackend(docker_host=tcp_host), made=[])
    try:
        async with harness.backend.events(harness.install_id) as events:
            started = await harness.start()
            await harness.say(started, "hello")
            place = f"{harness.backend.layout(started.spec).secrets}/large"
            await harness.backend.stop(started.ref, grace=GRACE)
            started.endpoint = await harness.backend.start(started.ref, secrets=secrets(large="x" * 500_000))
            await harness.until_serving(started)
            done = await harness.backend.exec(started.ref, ["cat", place], timeout=GRACE)
            with anyio.fail_after(LIMIT_SECONDS):
                told = [(await anext(events)).kind for _ in range(4)]

        assert len(done.output) == 500_000
        assert "hello" in [line.text for line in await harness.lines(started.ref)]
        assert told == ["connected", "started", "died", "started"]
    finally:
        await harness.clean_up()
        await harness.backend.aclose()


async def test_a_port_without_an_engine_is_none() -> None:
    """Nobody listening is "no engine answers"."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        host = f"tcp://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610 - no Django
    backend = DockerBackend(docker_host=host)

    with pytest.raises(EngineUnavailable):
        await backend.check()
    await backend.aclose()
