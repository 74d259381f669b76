"""When a server counts as ready, and when nobody waits for it any longer."""

from __future__ import annotations

import socket
from datetime import timedelta

import anyio
import pytest

from cnap_runner.errors import ServerNotReady
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.runner import readiness
from cnap_runner.runner.readiness import wait_until_ready
from cnap_runner.testing.fake_opencode import BrokenDatabaseOpenCode

LONG = timedelta(seconds=300)


async def test_f11_healthy_is_not_ready() -> None:
    """A server that calls itself healthy and has no data for anybody is not ready when its time is over."""
    async with BrokenDatabaseOpenCode(password="p") as server, OpenCodeClient(server.base_url, "p") as client:
        with pytest.raises(ServerNotReady):
            await wait_until_ready(client, timeout=timedelta(seconds=0.3), died=anyio.Event())


async def test_f27_where_nothing_listens_any_more_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was there before is not waited for as one that boots: the way to it is gone."""
    monkeypatch.setattr(readiness, "REFUSAL_PATIENCE", timedelta(seconds=0.1))
    async with OpenCodeClient(f"http://127.0.0.1:{closed_port()}", "p") as client:
        with anyio.fail_after(30), pytest.raises(ServerNotReady, match="Nothing listens"):
            await wait_until_ready(client, timeout=LONG, died=anyio.Event(), has_served=True)


async def test_one_that_boots_may_listen_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new server is waited for until its time is over, though nothing listens yet."""
    monkeypatch.setattr(readiness, "REFUSAL_PATIENCE", timedelta(seconds=0.01))
    async with OpenCodeClient(f"http://127.0.0.1:{closed_port()}", "p") as client:
        with pytest.raises(ServerNotReady, match=r"within 0\.3 s"):
            await wait_until_ready(client, timeout=timedelta(seconds=0.3), died=anyio.Event())


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
