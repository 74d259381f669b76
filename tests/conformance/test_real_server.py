"""The real OpenCode server in a real container, once."""

from __future__ import annotations

from dataclasses import replace

import anyio
import httpx
import pytest

from cnap_runner.testing.backend_harness import LIMIT_SECONDS, PASSWORD, Harness, secrets

pytestmark = [pytest.mark.engine, pytest.mark.opencode]


async def test_the_real_server_boots_confined_and_takes_the_password(docker_engine: Harness, runner_image: str) -> None:
    """With a read-only root, without capabilities and as its own user, it answers with data to the password it was handed."""
    spec = replace(docker_engine.spec(), image=runner_image)
    ref = await docker_engine.create(spec)
    endpoint = await docker_engine.backend.start(ref, secrets=secrets())

    async with httpx.AsyncClient(base_url=endpoint, trust_env=False, timeout=5) as client:
        with anyio.fail_after(2 * LIMIT_SECONDS):
            while (status := await _status(client, ("opencode", PASSWORD))) != httpx.codes.OK:
                await anyio.sleep(0.1)
        refused = await _status(client, None)

    await docker_engine.clean_up()
    assert (status, refused) == (httpx.codes.OK, httpx.codes.UNAUTHORIZED)


async def _status(client: httpx.AsyncClient, auth: tuple[str, str] | None) -> int | None:
    try:
        return (await client.get("/session", auth=auth)).status_code
    except httpx.TransportError:
        return None
