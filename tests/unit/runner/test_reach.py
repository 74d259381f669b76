"""What each agent may reach: worked out from its settings, in force before anything of it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from cnap_runner import AgentSpec, RunRequest, wiring
from cnap_runner.egress.rulebook import Entry, Rulebook
from cnap_runner.errors import InvalidInput, SecretUnavailable
from cnap_runner.runner import reach
from cnap_runner.runner.reach import check_egress, rules_of

PROXY = "http://10.0.0.1:3128"
Ask = Callable[..., RunRequest]


def spec(mode: str = "none", allow: Sequence[str] = (), **more: Any) -> AgentSpec:
    egress = {"mode": mode, "allow": allow}
    return AgentSpec.model_validate({"agent_id": "alice", "model": "anthropic/claude", "egress": egress, **more})


def hosts(wanted: AgentSpec, config: dict[str, Any], **values: str) -> set[str]:
    def value(name: str) -> str:
        if name not in values:
            raise SecretUnavailable(f"{name} has no value.")
        return values[name]

    rules = rules_of(wanted, {"model": wanted.model, **config}, value=value)
    return {f"{'*.' * rule.is_wildcard}{rule.host}:{port}" for rule in rules for port in rule.ports}


def test_model_providers_are_always_allowed() -> None:
    """A provider is reached where its ``baseURL`` says, else at its usual host; nothing else is allowed."""
    provider = {"local": {"options": {"baseURL": "http://host.docker.internal:8080/v1"}}, "openai": {}}
    assert hosts(spec(), {"provider": provider}) == {
        "api.anthropic.com:443", "api.openai.com:443", "host.docker.internal:8080"
    }  # fmt: skip


def test_base_url_stands_in_the_usual_hosts_place() -> None:
    """Who sends a provider's calls to a gateway does not let the agent reach the provider itself."""
    provider = {"anthropic": {"options": {"baseURL": "https://gateway.corp.example/anthropic"}}}
    assert hosts(spec(), {"provider": provider}) == {"gateway.corp.example:443"}


def test_remote_mcp_servers_are_allowed_and_local_ones_need_nothing() -> None:
    """What an MCP server's ``url`` names is reached at its port."""
    servers = {
        "docs": {"type": "remote", "url": "https://mcp.example:8443/sse"},
        "files": {"type": "local", "command": ["x"]},
    }
    assert hosts(spec(), {"mcp": servers}) == {"api.anthropic.com:443", "mcp.example:8443"}


def test_names_in_addresses_are_filled_in() -> None:
    """A ``${NAME}`` in an address stands for its value; without one, it is named."""
    config = {"provider": {"anthropic": {"options": {"baseURL": "https://${GATEWAY}:9/v1"}}}}
    assert hosts(spec(), config, GATEWAY="gw.example") == {"gw.example:9"}
    with pytest.raises(SecretUnavailable, match="GATEWAY"):
        hosts(spec(), config)


def test_provider_of_unknown_place_is_not_cut_off_in_silence() -> None:
    """In mode ``none`` a provider whose host nobody knows is refused; on a list, its host may be among the others."""
    with pytest.raises(InvalidInput, match="acme"):
        hosts(spec(model="acme/one"), {})
    assert hosts(spec("allowlist", ["api.acme.example"], model="acme/one"), {}) == {
        "api.acme.example:80", "api.acme.example:443"
    }  # fmt: skip


def test_configured_endpoints_may_be_private_and_listed_names_not() -> None:
    """The operator's own gateway is often on a private address; a name on the list must not lead there."""
    config = {"provider": {"anthropic": {"options": {"baseURL": "http://llm.corp.example/v1"}}}}
    rules = rules_of(spec("allowlist", ["github.com"]), {"model": "anthropic/claude", **config}, value=str)
    assert {rule.host: rule.may_be_private for rule in rules} == {"github.com": False, "llm.corp.example": True}


@pytest.mark.parametrize("url", ["ftp://x/", "https://", "http://a:b:c/", "http://[::1"])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    """An address that cannot be read may hold a secret: it is not repeated."""
    with pytest.raises(InvalidInput) as raised:
        rules_of(spec(), {"mcp": {"x": {"type": "remote", "url": "${SECRET}"}}}, value=lambda _: url)
    assert url not in str(raised.value)


class Barrier:
    """A barrier whose rules are real, and whose proxy and filter only count."""

    def __init__(self, folder: Path) -> None:
        self.rulebook = Rulebook(folder)
        self.closed = self.guarded = self.removed = 0
        self.killed = anyio.Event()
        self.mended = anyio.Event()

    def close(self, interface: str, gateway: str) -> str:
        self.closed += 1
        if self.killed.is_set():
            anyio.from_thread.run_sync(self.mended.set)
        return PROXY

    def is_needed(self) -> bool:
        return self.killed.is_set()

    def has_proxy(self) -> bool:
        return self.mended.is_set()

    def guard(self, interface: str) -> str | None:
        self.guarded += 1
        return None

    def remove(self) -> None:
        self.removed += 1

    @property
    def reached(self) -> set[str]:
        """Hosts that any instance may reach."""
        return {rule.host for entry in self.rulebook.entries().values() for rule in entry.rules}


@pytest.fixture
def barrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Barrier:
    barrier = Barrier(tmp_path / "egress")
    monkeypatch.setattr(wiring, "make_barrier", lambda *_: barrier)
    return barrier


@pytest.fixture
async def runner_manager(house: Any, barrier: Barrier) -> Any:
    async with house.manager() as manager:
        yield manager


async def test_rules_are_in_force_before_the_server_starts(
    house: Any, barrier: Barrier, runner_manager: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When an instance's server begins, its rules are written and its variables name the proxy; with its end they are gone."""
    seen: list[set[str]] = []
    serve = house._serve

    async def watching(wanted: Any) -> str:
        seen.append(barrier.reached)
        assert {wanted.environment[name] for name in ("HTTP_PROXY", "https_proxy")} == {PROXY}
        return str(await serve(wanted))

    house.backend._serve = watching
    await (await runner_manager.create_runner(spec())).run(ask())
    assert seen == [{"api.anthropic.com"}]
    await runner_manager.stop_runner("alice")
    assert barrier.rulebook.entries() == {}


async def test_changed_list_applies_to_the_same_instance(
    house: Any, barrier: Barrier, runner_manager: Any, ask: Ask
) -> None:
    """A new list is in force when `create_runner` returns, without a new instance."""
    runner = await runner_manager.create_runner(spec())
    await runner.run(ask())
    await runner_manager.create_runner(spec("allowlist", ["github.com"]))
    assert barrier.reached == {"api.anthropic.com", "github.com"}
    await runner.run(ask())
    assert house.starts == ["alice"]


async def test_a_list_that_cannot_be_worked_out_is_told(
    barrier: Barrier, runner_manager: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent may reach is about safety: a process that must leave it as it was says so, with the reason."""
    monkeypatch.setenv("LLM_URL", "http://models.example:8000/v1")
    model = {"provider": {"anthropic": {"options": {"baseURL": "${LLM_URL}"}}}}
    wide = spec("allowlist", ["a.example", "b.example"]).model_copy(update={"opencode": model})
    await (await runner_manager.create_runner(wide)).run(ask())
    monkeypatch.delenv("LLM_URL")
    narrow = spec("allowlist", ["a.example"]).model_copy(update={"opencode": model})
    runner = await runner_manager.create_runner(narrow)
    (waiting,) = await runner.pending_changes()
    assert (waiting.what, "b.example" in barrier.reached) == ("egress", True)
    assert "LLM_URL" in str(waiting.reason)


async def test_another_network_takes_another_instance(
    house: Any, barrier: Barrier, runner_manager: Any, ask: Ask
) -> None:
    """From open to closed there is no way but a new instance, and the open one has no rules."""
    runner = await runner_manager.create_runner(spec("open"))
    await runner.run(ask())
    assert (barrier.guarded, barrier.closed, barrier.rulebook.entries()) == (1, 0, {})
    await runner_manager.create_runner(spec())
    await runner.run(ask())
    assert house.starts == ["alice", "alice"]
    assert barrier.reached == {"api.anthropic.com"}


async def test_each_turn_begins_behind_a_whole_barrier(barrier: Barrier, runner_manager: Any, ask: Ask) -> None:
    """What was flushed, killed or lost while an instance lived is put back before its next turn."""
    runner = await runner_manager.create_runner(spec())
    await runner.run(ask())
    before, entries = barrier.closed, barrier.rulebook.entries()
    barrier.rulebook.remove({entry.instance_id for entry in entries.values()})
    await runner.run(ask())
    assert barrier.closed > before
    assert barrier.rulebook.entries() == entries


async def test_killed_proxy_is_started_again_without_a_turn(
    house: Any, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is killed is missed by the manager itself: an agent's turn may take half an hour."""
    monkeypatch.setattr(reach, "WATCH_SECONDS", 0.01)
    async with house.manager():
        barrier.killed.set()
        with anyio.fail_after(10):
            await barrier.mended.wait()


async def test_rules_of_the_dead_are_forgotten(house: Any, barrier: Barrier) -> None:
    """What an instance might reach, whose manager was killed and whose container is gone, is nobody's; nothing keeps the proxy up for it."""
    barrier.rulebook.put("10.0.0.9", Entry("i-gone", "bob", ()))
    async with house.manager():
        with anyio.fail_after(10):
            while barrier.rulebook.entries():
                await anyio.sleep(0.01)


async def test_unreadable_rule_is_refused_before_anything_is_kept(runner_manager: Any) -> None:
    """A rule that cannot be read is refused when the agent is made known."""
    with pytest.raises(InvalidInput, match="no rule for egress"):
        await runner_manager.create_runner(spec("allowlist", ["http://github.com/"]))
    assert await runner_manager.list_runners() == []


async def test_provider_that_would_be_cut_off_is_refused_before_anything_is_kept(runner_manager: Any) -> None:
    """An agent that could not reach its own model is not made known."""
    with pytest.raises(InvalidInput, match="acme"):
        await runner_manager.create_runner(spec(model="acme/one"))
    assert await runner_manager.list_runners() == []


async def test_purge_removes_the_barrier(barrier: Barrier, runner_manager: Any, ask: Ask) -> None:
    """Proxy, filter and rules go with the install."""
    await runner_manager.purge()
    assert barrier.removed == 1


@pytest.mark.parametrize("listed", ["127.0.0.1", "169.254.169.254:80", "[::1]:8080", "0.0.0.0", "224.0.0.1"])
def test_an_address_that_nobody_reaches_is_refused_when_it_is_listed(listed: str) -> None:
    """An operator who lists it would wait for what never comes; private addresses may be listed."""
    with pytest.raises(InvalidInput, match="which nobody reaches"):
        check_egress(spec("allowlist", [listed]), {})
    check_egress(spec("allowlist", ["10.0.0.1", "[fd00::1]:443", "8.8.8.8", "localhost.example"]), {})
