"""Attacks on the networks of real containers, by a program inside: what is closed stays closed, and what is allowed works.

The agent's server is a stub; proxy, packet filter, networks and containers are real. Rules of the packet filter need root.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from cnap_runner.egress.barrier import Barrier
from cnap_runner.egress.filter import why_no_filter
from cnap_runner.egress.process import living_proxy
from cnap_runner.egress.rulebook import Entry
from cnap_runner.egress.rules import parse_rule
from cnap_runner.image.engine import connected
from cnap_runner.model.instance import Network
from cnap_runner.testing.backend_harness import Harness, Started, secrets
from cnap_runner.testing.http_server import serving

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0 or why_no_filter() is not None, reason="needs the right to filter packets"),
]

HOST_ALIAS = "host.docker.internal"
METADATA = "169.254.169.254"

# Tries each (kind, host, port) and prints what came of it: the first line that was read, or the name of an error.
PROBE = """
import concurrent.futures, json, socket, sys, urllib.request

def tcp(host, port):
    with socket.create_connection((host, port), timeout=1.5) as link:
        link.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return link.recv(100).decode(errors="replace").splitlines()[0]

def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(1)
        link.sendto(b"hello", (host, port))
        return link.recv(100).decode()

def name(host, port):
    return socket.getaddrinfo(host, port)[0][4][0]

def web(host, port):
    return urllib.request.urlopen(f"http://{host}:{port}/", timeout=5).read().decode()

def late(host, port):
    with socket.create_connection((host, port), timeout=5) as link:
        link.sendall(link.recv(1))
        return link.recv(1).decode()

def raw(host, port):
    return str(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))

def attempt(kind, host, port):
    try:
        return globals()[kind](host, port)
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'code', '')}".strip()

with concurrent.futures.ThreadPoolExecutor(16) as threads:
    print(json.dumps(list(threads.map(lambda asked: attempt(*asked), json.loads(sys.argv[1])))))
"""


@dataclass
class Site:
    """Real networks with a real barrier around them, and a server on the host."""

    harness: Harness
    barrier: Barrier
    port: int
    """Of a server on all of the host's addresses."""

    async def start(self, network: Network, *rules: str) -> Started:
        """Start an instance as the runner does: proxied, with its rules written before anything of it runs."""
        environment: dict[str, str] = {}
        if network is Network.CLOSED:
            environment = {"http_proxy": await self.close(), "no_proxy": "localhost"}
        spec = replace(self.harness.spec(environment=environment), network=network)
        ref = await self.harness.create(spec)

        async def admit(address: str) -> None:
            entry = Entry(spec.instance_id, spec.agent_id, tuple(map(parse_rule, rules)))
            await run_sync(self.barrier.rulebook.put, address, entry)

        started = Started(spec, ref, await self.harness.backend.start(ref, secrets=secrets(), on_address=admit))
        await self.harness.until_serving(started)
        return started

    async def close(self) -> str:
        """Make sure of proxy and filter; give the proxy's URL."""
        facts = await self.harness.backend.closed_network(self.harness.install_id)
        assert facts is not None
        return await run_sync(self.barrier.close, facts.interface, facts.gateway)

    async def guard(self) -> str | None:
        """Close metadata addresses to the open network."""
        facts = await self.harness.backend.open_network(self.harness.install_id)
        assert facts is not None
        return await run_sync(self.barrier.guard, facts.interface)

    async def probe(self, started: Started, *asked: tuple[str, str, int]) -> list[str]:
        """Let a program inside try to reach things."""
        argv = ["python3", "-IS", "-c", PROBE, json.dumps(asked)]
        done = await self.harness.backend.exec(started.ref, argv, timeout=timedelta(seconds=60))
        assert done.exit_code == 0, done.output
        outcomes: list[str] = json.loads(done.output)
        return outcomes


@pytest.fixture(scope="module")
def barrier(docker_engine: Harness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Barrier]:
    barrier = Barrier(tmp_path_factory.mktemp("egress"), docker_engine.install_id)
    yield barrier
    barrier.remove()
    assert docker_engine.install_id not in str(rules_of_host(docker_engine.install_id))


@pytest.fixture
async def site(docker_engine: Harness, barrier: Barrier) -> AsyncIterator[Site]:
    with serving(address="0.0.0.0") as port:
        yield Site(docker_engine, barrier, port)
        await docker_engine.clean_up()


def rules_of_host(install_id: str) -> list[str]:
    """Rules of the host's packet filter, without those of other installs, which come and go."""
    tables = [["iptables", "-t", "mangle", "-S"], ["iptables", "-S", "INPUT"], ["ip6tables", "-t", "mangle", "-S"]]
    listed = [subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in tables]
    lines = [line for text in listed for line in text.splitlines()]
    return sorted(line for line in lines if "CNAP-" not in line or f"cnap-runner:{install_id}" in line)


async def test_closed_container_reaches_the_proxy_and_nothing_else(site: Site, docker_engine: Harness) -> None:
    """From the closed network nothing answers but the proxy: no port of the host at any of its addresses, no name, no other agent."""
    other = await site.start(Network.CLOSED)
    open_one = await site.start(Network.OPEN)
    closed = await site.start(Network.CLOSED)
    gateways = [
        await network(docker_engine.install_id)
        for network in (docker_engine.backend.closed_network, docker_engine.backend.open_network)
    ]
    neighbours = [(await docker_engine.backend.inspect(started.ref)).address for started in (other, open_one)]
    proxy = living_proxy(site.barrier.folder)
    assert proxy is not None

    outcomes = await site.probe(
        closed,
        *[("tcp", gateway.gateway, site.port) for gateway in gateways if gateway],
        *[("tcp", str(address), 4096) for address in neighbours],
        ("udp", proxy.address, 53),
        ("name", "example.com", 80),
        ("name", HOST_ALIAS, 80),
        ("tcp", METADATA, 80),
        ("tcp", "1.1.1.1", 443),
        ("tcp", "2606:4700:4700::1111", 443),
        ("raw", "", 0),
        ("tcp", proxy.address, proxy.port),
    )

    assert all(outcome.lower().endswith("error") for outcome in outcomes[:-1]), outcomes
    assert outcomes[-1].startswith("HTTP/1.1 400")


async def test_allowlist_lets_through_what_it_names(site: Site) -> None:
    """A listed name and port works through the proxy; another port of it, and every other name, is refused."""
    with serving(address="0.0.0.0") as unlisted:
        closed = await site.start(Network.CLOSED, f"{HOST_ALIAS}:{site.port}", "example.com")
        outcomes = await site.probe(
            closed,
            ("web", HOST_ALIAS, site.port),
            ("web", HOST_ALIAS, unlisted),
            ("web", "example.org", 80),
            ("web", METADATA, 80),
        )
    assert outcomes == ["hello", "HTTPError 403", "HTTPError 403", "HTTPError 403"]


async def test_each_agent_has_its_own_list(site: Site) -> None:
    """What one agent may reach, its neighbour on the same network may not."""
    await site.start(Network.CLOSED, f"{HOST_ALIAS}:{site.port}")
    other = await site.start(Network.CLOSED)
    assert await site.probe(other, ("web", HOST_ALIAS, site.port)) == ["HTTPError 403"]


async def test_list_changes_on_a_live_container(site: Site) -> None:
    """A new list applies at once, without a new container."""
    closed = await site.start(Network.CLOSED)
    change = site.barrier.rulebook.replace
    await run_sync(change, closed.spec.instance_id, (parse_rule(f"{HOST_ALIAS}:{site.port}"),))
    assert await site.probe(closed, ("web", HOST_ALIAS, site.port)) == ["hello"]
    await run_sync(change, closed.spec.instance_id, ())
    assert await site.probe(closed, ("web", HOST_ALIAS, site.port)) == ["HTTPError 403"]


async def test_flushed_filter_is_mended(site: Site) -> None:
    """Rules that somebody flushed while instances run are there again after the next start of any closed instance."""
    closed = await site.start(Network.CLOSED)
    gateway = await site.harness.backend.closed_network(site.harness.install_id)
    assert gateway is not None
    before = rules_of_host(site.harness.install_id)
    chain = next(line for line in before if line.startswith(f"-A PREROUTING -i {gateway.interface}")).split()[-1]
    subprocess.run(["iptables", "-w", "5", "-t", "mangle", "-F", chain], check=True)
    assert "hello" in (await site.probe(closed, ("tcp", gateway.gateway, site.port)))[0]

    await site.close()

    assert (await site.probe(closed, ("tcp", gateway.gateway, site.port)))[0].lower().endswith("error")
    assert rules_of_host(site.harness.install_id) == before


async def test_a_rule_that_somebody_put_in_front_lets_nothing_through(site: Site) -> None:
    """The filter's rule is not only there but first: one that accepts before it would open what is closed."""
    closed = await site.start(Network.CLOSED)
    gateway = await site.harness.backend.closed_network(site.harness.install_id)
    assert gateway is not None
    rule = ["PREROUTING", "-i", gateway.interface, "-j", "ACCEPT"]
    mangle = ["iptables", "-w", "5", "-t", "mangle"]
    subprocess.run([*mangle, "-I", *rule], check=True)
    try:
        assert "hello" in (await site.probe(closed, ("tcp", gateway.gateway, site.port)))[0]

        await site.close()

        assert (await site.probe(closed, ("tcp", gateway.gateway, site.port)))[0].lower().endswith("error")
        jumps = [
            line for line in rules_of_host(site.harness.install_id) if f"PREROUTING -i {gateway.interface} -m" in line
        ]
        assert len([line for line in jumps if line.endswith("-C")]) == len(jumps) > 0
        before = rules_of_host(site.harness.install_id)
        await site.close()
        assert rules_of_host(site.harness.install_id) == before
    finally:
        subprocess.run([*mangle, "-D", *rule], check=True)


async def test_pruned_network_is_made_anew(site: Site) -> None:
    """Somebody prunes networks while no closed instance lives: the next one gets another, with its rules."""
    install_id, backend = site.harness.install_id, site.harness.backend
    before = await backend.closed_network(install_id)
    assert before is not None
    with connected() as engine:
        await run_sync(engine.remove_network, before.id)
    closed = await site.start(Network.CLOSED, f"{HOST_ALIAS}:{site.port}")
    assert await site.probe(closed, ("web", HOST_ALIAS, site.port)) == ["hello"]
    after = await backend.closed_network(install_id)
    assert after is not None
    assert after.id != before.id


async def test_what_began_while_the_filter_was_flushed_ends_with_its_return(site: Site) -> None:
    """An instance that used the moment to connect to the host cannot go on with that connection."""
    closed = await site.start(Network.CLOSED)
    facts = await site.harness.backend.closed_network(site.harness.install_id)
    assert facts is not None
    rules = rules_of_host(site.harness.install_id)
    chain = next(line for line in rules if line.startswith(f"-A PREROUTING -i {facts.interface}")).split()[-1]
    subprocess.run(["iptables", "-w", "5", "-t", "mangle", "-F", chain], check=True)
    with socket.create_server((facts.gateway, 0)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.probe, closed, ("late", *server.getsockname()))
            connection, _ = await run_sync(server.accept)
            with connection:
                await site.close()
                connection.settimeout(1.5)
                connection.sendall(b"x")
                with pytest.raises(TimeoutError):
                    await run_sync(connection.recv, 1)


async def test_metadata_is_closed_on_the_open_network(site: Site) -> None:
    """A metadata service that answers the host does not answer an agent, while the world and the host stay reachable."""
    with metadata_service() as port:
        started = await site.start(Network.OPEN)
        asked = [("tcp", METADATA, port), ("tcp", HOST_ALIAS, site.port)]
        assert all(
            "hello" in outcome for outcome in await site.probe(started, *asked)
        )  # what a cloud without us would have

        assert await site.guard() is None

        stolen, allowed = await site.probe(started, *asked)
    assert stolen == "TimeoutError"
    assert "hello" in allowed


@contextlib.contextmanager
def metadata_service() -> Iterator[int]:
    """A server at a cloud's metadata address, on this very machine, as some clouds' helpers have it."""
    address = ["ip", "address", "{}", f"{METADATA}/32", "dev", "lo"]
    call = partial(subprocess.run, capture_output=True, check=True)
    call([word.format("add") for word in address])
    try:
        with serving(address=METADATA) as port:
            yield port
    finally:
        call([word.format("del") for word in address])


def test_rules_carry_the_install_and_no_others_are_touched(tmp_path: Path) -> None:
    """What is added can be told from what was there, and removing it leaves exactly that."""
    install_id = f"test-{uuid.uuid4().hex[:8]}"
    before = rules_of_host(install_id)
    barrier = Barrier(tmp_path, install_id)
    added: Any = barrier._filter
    added.guard_metadata("lo-none")
    assert rules_of_host(install_id) != before
    barrier.remove()
    barrier.remove()
    assert rules_of_host(install_id) == before
