"""Secrets of instances that another manager started."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunRequest
from cnap_runner.runner.secrecy import known
from cnap_runner.testing.fake_opencode.script import Say

OF_VAULT, OF_ENVIRONMENT, OF_PROVIDER = "value-of-the-vault", "value-of-a-variable", "value-of-a-provider"


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> AgentSpec:
    monkeypatch.setenv("SERVER_TOKEN", OF_ENVIRONMENT)
    monkeypatch.setenv("ANTHROPIC_API_KEY", OF_PROVIDER)
    return AgentSpec.model_validate(
        {
            "agent_id": "alice",
            "model": "anthropic/claude",
            "secrets": {"TOKEN": "vault:TOKEN", "GONE": "vault:GONE"},
            "opencode": {
                "mcp": {"x": {"type": "remote", "url": "https://h.example/", "headers": {"t": "${SERVER_TOKEN}"}}}
            },
        }
    )


async def test_who_adopts_an_instance_redacts_its_secrets(
    house: Any, spec: AgentSpec, ask: Callable[..., RunRequest]
) -> None:
    """The vault's, a variable's and a provider's; one that cannot be read is in nobody's way."""
    text = f"{OF_VAULT} {OF_ENVIRONMENT} {OF_PROVIDER}"
    house.script([Say("first")], [Say(text)])
    async with house.manager(on_shutdown="leave") as first:
        await first.put_secret("TOKEN", OF_VAULT)
        await (await first.create_runner(spec)).run(ask())
    async with house.manager() as second:
        runner = await second.get_runner("alice")
        result = await runner.run(ask())
        (stored, _) = await second.list_runs("alice")
    assert house.starts == ["alice"]
    assert result.output == "[redacted] [redacted] [redacted]"
    assert stored.result is not None
    assert stored.result.output == result.output


async def test_what_another_manager_rotated_is_redacted_too(
    house: Any, spec: AgentSpec, ask: Callable[..., RunRequest]
) -> None:
    """From the next turn on, the old value as well as the new one."""
    house.script([Say("first")], [Say(f"{OF_VAULT} a-rotated-value")])
    async with house.manager() as first:
        await first.put_secret("TOKEN", OF_VAULT)
        runner = await first.create_runner(spec)
        await runner.run(ask())
        async with house.manager(is_observer=True) as second:
            await second.put_secret("TOKEN", "a-rotated-value")
        assert (await runner.run(ask())).output == "[redacted] [redacted]"


async def test_logs_of_an_instance_nobody_here_started_are_redacted(
    house: Any, spec: AgentSpec, ask: Callable[..., RunRequest]
) -> None:
    """Looking at logs adopts nothing, and shows no known secret all the same."""
    async with house.manager(on_shutdown="leave") as first:
        await first.put_secret("TOKEN", OF_VAULT)
        runner = await first.create_runner(spec)
        await first.start_runner("alice")
        ref = await runner._ref()
    house.backend.emit(ref.instance_id, f"it says {OF_VAULT} and {password_of(house, ref.instance_id)}")
    async with house.manager(is_observer=True) as second:
        lines = [line.text async for line in (await second.get_runner("alice")).logs()]
    assert lines == ["it says [redacted] and [redacted]"]


async def test_passwords_of_instances_that_another_manager_replaced_are_forgotten(house: Any, spec: AgentSpec) -> None:
    """All but the latest two, whose last words may still be read; else a manager beside others would only grow."""
    started: list[str] = []
    async with house.manager() as first, house.manager() as second:
        runner = await first.create_runner(spec)
        reader = await second.get_runner("alice")
        for _ in range(4):
            await first.start_runner("alice")
            started.append((await runner._ref()).instance_id)
            house.backend.emit(started[-1], "x")
            assert [line.text async for line in reader.logs(tail=1)] == ["x"]
            await first.stop_runner("alice")
        redact = second._usable().install.redactor.redact
        passwords = [password_of(house, instance_id) for instance_id in started]
        assert [redact(each) == each for each in passwords] == [True, True, False, False]


async def test_passwords_of_deleted_agents_are_forgotten(
    house: Any, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever deleted them."""
    monkeypatch.setattr(known, "FORGET_EVERY", timedelta(milliseconds=20))
    async with house.manager() as first, house.manager() as second:
        runner = await first.create_runner(spec)
        await first.start_runner("alice")
        ref = await runner._ref()
        house.backend.emit(ref.instance_id, "x")
        assert [line.text async for line in (await second.get_runner("alice")).logs()] == ["x"]
        password, redact = password_of(house, ref.instance_id), second._usable().install.redactor.redact
        assert redact(password) != password
        await first.delete_runner("alice")
        with anyio.fail_after(20):
            while redact(password) != password:
                await anyio.sleep(0.01)


def password_of(house: Any, instance_id: str) -> str:
    """The password of an instance's server."""
    key = (house.data_dir / "install.key").read_bytes()
    return hmac.new(key, instance_id.encode(), hashlib.sha256).hexdigest()
