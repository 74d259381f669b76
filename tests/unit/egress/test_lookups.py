"""Names are looked up for each client in its own places."""

from __future__ import annotations

import socket
import threading
from typing import Any

import anyio
import pytest

from cnap_runner.egress.lookups import LOOKUPS_PER_CLIENT, Lookups


async def test_slow_names_of_one_client_do_not_slow_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gave up waiting has its places taken until the lookups end; others have theirs."""
    answer = threading.Event()

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host == "slow.example":
            answer.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    lookups = Lookups()
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(LOOKUPS_PER_CLIENT):
                tasks.start_soon(lookups, "slow.example", 443, "10.0.0.2")
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        assert await lookups("quick.example", 443, "10.0.0.3") == ["192.0.2.1"]
        with anyio.move_on_after(0.1) as waiting:
            await lookups("quick.example", 443, "10.0.0.2")
        assert waiting.cancelled_caught
    finally:
        answer.set()
    assert await lookups("quick.example", 443, "10.0.0.2") == ["192.0.2.1"]


async def test_a_name_without_an_address_is_an_error_that_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    lookups = Lookups()
    for _ in range(2 * LOOKUPS_PER_CLIENT):
        with pytest.raises(OSError, match="no such name"):
            await lookups("none.example", 443, "10.0.0.2")
