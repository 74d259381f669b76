"""The proxy, with real sockets on loopback. The host itself, by its alias, is the only one that may be there."""

from __future__ import annotations

import logging
import socket
import struct
from typing import Any

import anyio
import pytest

from cnap_runner.egress.proxy import ProxyLimits

HOST = "127.0.0.1"
ALIAS = "host.docker.internal"
OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def connect(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


async def test_tunnel_carries_both_ways_and_half_closes(bench: Any, echo: Any) -> None:
    """Bytes pass both ways; when the client has said all it had to say, the server may still answer."""
    bench.allow(f"{ALIAS}:{echo.port}")
    async with await bench.connect() as stream:
        await stream.send(connect(ALIAS, echo.port) + b"early ")
        assert (await bench.read_until(stream, b"early ")).startswith(OPENED)
        await stream.send(b"late")
        assert await bench.read_until(stream, b"late") == b"late"
        await stream.send_eof()
        assert await bench.read_all(stream) == b"bye"
    assert echo.received == [b"early late"]


async def test_plain_request_is_asked_for_the_checked_host(bench: Any, web: Any) -> None:
    """A server gets the path, and the host that was checked, whatever the client's own header says; nothing meant for the proxy."""
    bench.allow(f"{ALIAS}:{web.port}")
    answer = await bench.ask(
        f"GET http://{ALIAS}:{web.port}/v1/models?x=1 HTTP/1.1\r\nHost: evil.example\r\nProxy-Authorization: Basic eDp5\r\n"
        "X-Own: kept\r\nConnection: x-hop\r\nX-Hop: dropped\r\n\r\n".encode()
    )
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    (request,) = web.received
    assert request.startswith(b"GET /v1/models?x=1 HTTP/1.1\r\n")
    assert f"host: {ALIAS}:{web.port}\r\n".encode() in request.lower()
    assert b"X-Own: kept" in request
    assert not any(word in request for word in (b"evil", b"Proxy-", b"dropped"))


async def test_one_request_per_connection(bench: Any, web: Any) -> None:
    """A second request behind the first, for another host of the same server, is not passed on."""
    bench.allow(f"{ALIAS}:{web.port}")
    one = f"POST http://{ALIAS}:{web.port}/one HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    await bench.ask(f"{one}GET http://{ALIAS}:{web.port}/two HTTP/1.1\r\nHost: other.example\r\n\r\n".encode())
    assert len(web.received) == 1
    assert web.received[0].endswith(b"body")
    assert b"two" not in web.received[0]


async def test_chunked_body_is_framed_anew(bench: Any, echo: Any) -> None:
    """A body of unknown length arrives whole."""
    bench.allow(f"{ALIAS}:{echo.port}")
    async with await bench.connect() as stream:
        head = f"POST http://{ALIAS}:{echo.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await stream.send(f"{head}3\r\nabc\r\n".encode())
        await stream.send(b"2\r\nde\r\n0\r\n\r\n")
        await bench.read_all(stream)
    assert b"abc" in echo.received[0]


async def test_body_has_one_length(bench: Any, echo: Any) -> None:
    """A length beside chunks would let a server see another request where the proxy saw a body: it is not passed on."""
    bench.allow(f"{ALIAS}:{echo.port}")
    head = f"POST http://{ALIAS}:{echo.port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    await bench.ask(f"{head}3\r\nabc\r\n0\r\n\r\n".encode())
    assert b"content-length" not in echo.received[0].lower()
    assert b"transfer-encoding: chunked" in echo.received[0].lower()


async def test_body_is_not_lost_to_a_header(bench: Any, web: Any) -> None:
    """How long a body is concerns every hop, also where a client says otherwise."""
    bench.allow(f"{ALIAS}:{web.port}")
    head = f"POST http://{ALIAS}:{web.port}/ HTTP/1.1\r\nHost: x\r\nConnection: content-length\r\nContent-Length: 4\r\n\r\n"
    await bench.ask(f"{head}body".encode())
    assert b"content-length: 4\r\n" in web.received[0].lower()


@pytest.mark.parametrize(
    "request_text",
    [connect(ALIAS, 1), connect("example.com", 443), connect("127.0.0.1", 22), connect("169.254.169.254", 80), b"GET http://example.com/ HTTP/1.1\r\nHost: x\r\n\r\n"],
)  # fmt: skip
async def test_what_is_not_listed_is_refused_without_a_lookup(bench: Any, request_text: bytes) -> None:
    """What is not on the list is refused, and its name is not even looked up: names would be a way out."""
    bench.allow("allowed.example", f"{ALIAS}:443")
    answer = await bench.ask(request_text)
    assert status(answer) == 403
    assert b"not on the list of agent alice" in answer
    assert bench.looked_up == []


async def test_stranger_reaches_nothing(bench: Any, echo: Any) -> None:
    """An address without an entry, such as that of an instance on another network, reaches nothing."""
    assert b"nothing is allowed from this address" in await bench.ask(connect(ALIAS, echo.port))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "100.100.100.200"]
)
async def test_listed_name_with_an_inner_address_is_refused(bench: Any, echo: Any, address: str) -> None:
    """A name that is allowed leads nowhere inside, whatever its owner lets it resolve to (DNS rebinding)."""
    bench.allow(f"rebinding.example:{echo.port}")
    bench.names["rebinding.example"] = [address]
    assert status(await bench.ask(connect("rebinding.example", echo.port))) == 403
    assert echo.received == []


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254"])
async def test_not_even_a_configured_endpoint_is_on_loopback(bench: Any, echo: Any, address: str) -> None:
    """An endpoint may have a private address, but never loopback's or a metadata address."""
    bench.allow(endpoints=[f"llm.example:{echo.port}", f"{address}:{echo.port}"])
    bench.names["llm.example"] = [address]
    for host in ("llm.example", address):
        assert status(await bench.ask(connect(host, echo.port))) == 403


async def test_name_is_resolved_once(bench: Any) -> None:
    """The address that was checked is the one that is connected to: a name is not looked up a second time."""
    bench.allow("changing.example:443")
    bench.names["changing.example"] = ["10.0.0.1"]
    await bench.ask(connect("changing.example", 443))
    assert bench.looked_up == ["changing.example"]


async def test_unknown_name_and_closed_port_are_said(bench: Any) -> None:
    """What cannot be reached is told apart from what may not be."""
    bench.allow("nowhere.example", f"{ALIAS}:1")
    assert b"does not resolve" in await bench.ask(connect("nowhere.example", 443))
    assert b"cannot be connected to" in await bench.ask(connect(ALIAS, 1))


@pytest.mark.parametrize(
    "request_text",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET https://example.com/ HTTP/1.1\r\nHost: x\r\n\r\n", b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
     b"CONNECT example.com:99999 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01 no http\r\n\r\n",
     b"CONNECT 2130706433:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://a.example/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000],
)  # fmt: skip
async def test_what_is_no_request_gets_an_answer(bench: Any, request_text: bytes) -> None:
    """What is no request to a proxy, or has no end, is answered with 400, and the proxy goes on."""
    bench.allow("a.example")
    assert status(await bench.ask(request_text)) == 400
    assert status(await bench.ask(connect("b.example", 443))) == 403


async def test_changed_list_ends_open_connections(bench: Any, echo: Any) -> None:
    """Rules apply to connections that are open already; those that are still allowed go on."""
    bench.allow(f"{ALIAS}:{echo.port}", "more.example")
    async with await bench.connect() as stream:
        await stream.send(connect(ALIAS, echo.port))
        await bench.read_until(stream, OPENED)
        bench.allow(f"{ALIAS}:{echo.port}")
        bench.proxy.apply_changes()
        await stream.send(b"still")
        assert await bench.read_until(stream, b"still") == b"still"
        bench.allow("other.example")
        bench.proxy.apply_changes()
        assert await bench.read_all(stream) == b""
    assert not bench.proxy.is_idle


async def test_silent_instance_of_the_same_address_is_cut(bench: Any, echo: Any) -> None:
    """A connection of an instance that is no more is ended, even where the next one with its address may reach the same."""
    bench.allow(f"{ALIAS}:{echo.port}")
    async with await bench.connect() as stream:
        await stream.send(connect(ALIAS, echo.port))
        await bench.read_until(stream, OPENED)
        (entry,) = bench.book.entries().values()
        bench.book.put(HOST, type(entry)("i-2", "bob", entry.rules))
        bench.proxy.apply_changes()
        assert await bench.read_all(stream) == b""


@pytest.mark.parametrize("limits", [ProxyLimits(connections_per_client=2)])
async def test_one_client_takes_no_more_than_its_share(bench: Any) -> None:
    """A client with too many connections is told so; it may connect again when it has closed one."""
    bench.allow("a.example")
    first, second = await bench.connect(), await bench.connect()
    while bench.proxy._clients.total() < 2:
        await anyio.sleep(0.01)
    async with first, second:
        assert status(await bench.ask(connect("b.example", 443))) == 503
    while bench.proxy._clients.total() != 0:
        await anyio.sleep(0.01)
    assert status(await bench.ask(connect("b.example", 443))) == 403


@pytest.mark.parametrize("limits", [ProxyLimits(connections_per_client=2)])
async def test_flood_is_not_answered(bench: Any) -> None:
    """Telling a client that it has too many connections is bounded too: what is beyond is closed without a word."""
    streams = [await bench.connect() for _ in range(40)]
    while bench.proxy._clients.total() < 18:
        await anyio.sleep(0.01)
    assert await bench.read_all(streams[-1]) == b""
    assert bench.proxy._clients.total() <= 18
    for stream in streams:
        await stream.aclose()


async def test_connection_that_was_reset_early_harms_nobody(bench: Any) -> None:
    """A client that is gone before it was looked at does not end the proxy for all."""
    for _ in range(20):
        with socket.create_connection((HOST, bench.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert status(await bench.ask(connect("b.example", 443))) == 403


async def test_refusals_are_written_down_without_contents(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log says who wanted where to and why not; paths, headers and bodies are nobody's business."""
    bench.allow("a.example")
    with caplog.at_level(logging.INFO, logger="cnap_runner"):
        await bench.ask(b"GET http://b.example/secret?key=hidden HTTP/1.1\r\nHost: x\r\nAuthorization: hidden\r\n\r\n")
    (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert '"host": "b.example"' in line
    assert '"agent_id": "alice"' in line
    assert "hidden" not in caplog.text
    assert "secret" not in caplog.text


async def test_defect_is_written_down_where_it_is(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One client's connection ends with it, and the log says what it was and where, not the words, which may quote what passes."""
    bench.allow("a.example")
    bench.names["a.example"] = ["no address, and private"]
    with caplog.at_level(logging.INFO, logger="cnap_runner"):
        assert await bench.ask(connect("a.example", 443)) == b""
    (line,) = [record.getMessage() for record in caplog.records if "connection_failed" in record.getMessage()]
    assert '"error": "ValueError"' in line
    assert '"at": "reaching.py:' in line
    assert "private" not in caplog.text
