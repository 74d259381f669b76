"""The proxy behind a company's own, which stands for the only way out that some hosts have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketAttribute

from cnap_runner.egress.log import logger
from cnap_runner.egress.proxy import Proxy
from cnap_runner.egress.reaching import Outside
from cnap_runner.egress.rulebook import Entry, Rulebook
from cnap_runner.egress.rules import parse_rule
from cnap_runner.egress.upstream import Upstream, upstream_of
from cnap_runner.errors import InvalidInput

HOST = "127.0.0.1"


@pytest.fixture
async def company(tmp_path: Path, echo: Any) -> AsyncIterator[int]:
    """A company's proxy: one of ours, by which the name ``inside.example`` leads to the echo."""
    book = Rulebook(tmp_path / "company")
    book.put(HOST, Entry("i-9", "company", (parse_rule(f"host.docker.internal:{echo.port}"),)))
    proxy = Proxy(book, outside=Outside(HOST), log=logger())
    async with await anyio.create_tcp_listener(local_host=HOST) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.handle)
        yield listener.extra(SocketAttribute.local_port)  # noqa: S610 - no database
        tasks.cancel_scope.cancel()


@pytest.fixture
def upstream(company: int) -> Upstream:
    return Upstream(HOST, company, ("direct.example",))


def connect(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_alias_is_the_host_itself_without_the_company(bench: Any, echo: Any) -> None:
    """What the host serves is connected to directly: no company's proxy knows the way there."""
    bench.allow(f"host.docker.internal:{echo.port}")
    async with await bench.connect() as stream:
        await stream.send(connect("host.docker.internal", echo.port) + b"hello")
        await bench.read_until(stream, b"hello")


async def test_names_are_left_to_the_company(bench: Any) -> None:
    """A host that only the company's proxy can resolve is not looked up here; what that refuses is refused."""
    bench.allow("outside.example:443", "direct.example")
    assert b"upstream proxy does not connect" in await bench.ask(connect("outside.example", 443))
    assert bench.looked_up == []
    await bench.ask(connect("direct.example", 443))
    assert bench.looked_up == ["direct.example"]


async def test_addresses_are_checked_before_the_company_sees_them(bench: Any) -> None:
    """A metadata address stays closed, whoever would connect to it."""
    bench.allow(endpoints=["169.254.169.254:80"])
    assert b"metadata" in await bench.ask(connect("169.254.169.254", 80))


async def test_tunnel_through_the_company_carries_all_bytes(company: int, echo: Any) -> None:
    """The answer's head is taken off, and not one byte of what follows."""
    stream = await Upstream(HOST, company).connect("host.docker.internal", echo.port)
    async with stream:
        await stream.send(b"\r\n\r\nhello")
        with anyio.fail_after(5):
            assert await stream.receive() == b"\r\n\r\nhello"


@pytest.mark.parametrize(
    ("host", "is_for"),
    [("a.example", True), ("corp.example", False), ("git.corp.example", False), ("notcorp.example", True)],
)
def test_what_is_reached_without_the_proxy(host: str, is_for: bool) -> None:
    """``no_proxy`` names hosts and domains, however they are written."""
    upstream = upstream_of("http://proxy.example:3128", " .corp.example, *.lan ")
    assert upstream is not None
    assert (upstream.host, upstream.port, upstream.is_for(host)) == ("proxy.example", 3128, is_for)


def test_proxy_of_another_kind_is_refused() -> None:
    """What cannot be gone through is refused, not ignored."""
    assert upstream_of("", "") is None
    with pytest.raises(InvalidInput):
        upstream_of("https://proxy.example:3128", "")
