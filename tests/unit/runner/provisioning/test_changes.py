"""A changed spec reaches an instance that runs, between turns, and under the lease."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunnerStatus, RunRequest
from cnap_runner.errors import (
    ConflictError,
    EngineUnavailable,
    InvalidInput,
    SecretUnavailable,
    ServerRejected,
    StoreBusy,
)
from cnap_runner.model.mcp import McpState
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.runner.provisioning.changes import PendingChange
from cnap_runner.testing.fake_opencode import Hold, MisreadingOpenCode

Ask = Callable[..., RunRequest]
DISPOSE = "POST /instance/dispose"


def with_(spec: AgentSpec, **fields: Any) -> AgentSpec:
    return AgentSpec(**{**spec.model_dump(exclude_unset=True), **fields})


def config_of(house: Any, agent_id: str = "alice") -> dict[str, Any]:
    path = house.data_dir / "agents" / agent_id / "settings" / "opencode" / "opencode.json"
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def instance_of(house: Any) -> Any:
    (live,) = [each for each in house.backend._instances.values() if each.is_live]
    return live


def disposals(house: Any) -> int:
    return int(house.servers["alice"].requests.count(DISPOSE))


async def test_changed_settings_reach_the_server_that_runs(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """An idle agent takes them up at once: same instance, same session, the server is told to read them again."""
    first = await (await manager.create_runner(spec)).run(ask())
    runner = await manager.create_runner(with_(spec, opencode={"username": "x"}, mcp={"m": {"command": ["serve"]}}))
    assert (disposals(house), await runner.pending_changes()) == (1, [])
    assert config_of(house)["username"] == "x"
    environment = {"OPENCODE_SERVER_PASSWORD": ""}
    server = {"type": "local", "command": ["serve"], "enabled": True, "environment": environment}
    assert config_of(house)["mcp"] == {"m": server}
    second = await runner.run(ask())
    assert (house.starts, runner.record.generation) == (["alice"], 1)
    assert (first.session_id, disposals(house)) == (second.session_id, 1)


async def test_the_same_spec_again_disturbs_nobody(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Nothing differs: the server is not asked to read anything."""
    await (await manager.create_runner(spec)).run(ask())
    await (await manager.create_runner(spec)).run(ask())
    assert disposals(house) == 0


async def test_changed_limits_need_no_word_to_the_server(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """They change in place."""
    await (await manager.create_runner(spec)).run(ask())
    runner = await manager.create_runner(with_(spec, resources={"memory_mb": 1024}))
    assert instance_of(house).limits.memory_bytes == 1024 << 20
    assert (house.starts, disposals(house), await runner.pending_changes()) == (["alice"], 0, [])


async def test_what_is_fixed_for_an_instances_life_ends_it_at_once(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """A changed label: the idle instance ends when the spec is given, the next run starts the new one in the same session."""
    first = await (await manager.create_runner(spec)).run(ask())
    runner = await manager.create_runner(with_(spec, labels={"team": "a"}))
    assert (runner.record.status, runner.record.reason) == (
        RunnerStatus.STOPPED,
        "its settings changed, which only a new container can take up",
    )
    second = await runner.run(ask())
    assert (house.starts, first.session_id) == (["alice", "alice"], second.session_id)


async def test_a_change_during_a_turn_waits_for_its_end(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """The turn is not disturbed; what waits is told; the next turn begins with it."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    house.script([Hold()])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, ask())
        while runner.status is not RunnerStatus.RUNNING:
            await anyio.sleep(0.01)
        await manager.create_runner(with_(spec, opencode={"username": "x"}, labels={"a": "b"}))
        waiting = await runner.pending_changes()
        assert disposals(house) == 0
        house.servers["alice"].release()
    assert waiting == [
        PendingChange("container", "after the turn under way, with a new container"),
        PendingChange("settings", "after the turn under way"),
    ]
    await manager.create_runner(with_(spec, opencode={"username": "y"}))
    assert (house.starts, config_of(house)["username"]) == (["alice"], "y")


async def test_an_instance_of_which_nothing_is_known_is_brought_up_to_date(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """So is one left half-way by a manager that was killed: the record says unknown, the next turn begins with the settings."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    parts = manager._usable()
    async with parts.leased("alice", "test"):
        await parts.install.save_runner(runner.record.settled(settings_hash=None, limits=None))
    await runner.run(ask())
    assert (house.starts, disposals(house)) == (["alice"], 1)
    record: RunnerRecord = runner.record
    assert record.settings_hash is not None
    assert record.limits is not None


async def test_a_process_that_cannot_resolve_uses_what_runs(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It delivers nothing it does not have, and its turn works; a process that has the variable applies the change."""
    await (await manager.create_runner(spec)).run(ask())
    async with house.manager() as other:
        runner = await other.create_runner(with_(spec, opencode={"username": "${NOT_HERE}"}))
        assert (await runner.run(ask())).success
        (waiting,) = await runner.pending_changes()
        assert (disposals(house), waiting.what, waiting.applies) == (0, "settings", "when what hinders it is mended")
        assert "needs ${NOT_HERE} in username" in str(waiting.reason)
    monkeypatch.setenv("NOT_HERE", "a-value-of-some-length")
    assert (await runner_of(manager, ask)).success
    assert (house.starts, disposals(house)) == (["alice"], 1)
    assert instance_of(house).files.secrets["env-NOT_HERE"] == b"a-value-of-some-length"


async def test_a_plugin_that_hinders_a_change_is_told(manager: RunnerManager, spec: AgentSpec, ask: Ask) -> None:
    """A changed permission must not wait in silence."""
    await (await manager.create_runner(spec)).run(ask())
    plugin = manager.settings.data_dir / "workspace" / "alice" / ".opencode" / "plugin" / "a.ts"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("x")
    runner = await manager.create_runner(with_(spec, opencode={"permission": {"bash": "deny"}}))
    (waiting,) = await runner.pending_changes()
    assert ".opencode/plugin/a.ts, which OpenCode would run" in str(waiting.reason)


async def test_of_two_edits_at_the_same_moment_none_is_lost_unsaid(manager: RunnerManager, spec: AgentSpec) -> None:
    """Whoever edits what is not there any more is told, and nothing is changed."""
    runner = await manager.create_runner(spec)
    await manager.create_runner(with_(spec, model="fake/two"), expected=runner.spec)
    with pytest.raises(ConflictError, match="changed by somebody else"):
        await manager.create_runner(with_(spec, system_prompt="x"), expected=runner.spec)
    assert (await manager.get_runner("alice")).spec == with_(spec, model="fake/two")


async def runner_of(manager: RunnerManager, ask: Ask) -> Any:
    return await (await manager.get_runner("alice")).run(ask())


async def test_what_cannot_be_started_here_does_not_end_what_runs(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """A new instance is needed, and a variable is missing: the run says which, the present instance lives."""
    await (await manager.create_runner(spec)).run(ask())
    runner = await manager.create_runner(with_(spec, labels={"a": "b"}, opencode={"username": "${NOT_HERE}"}))
    with pytest.raises(SecretUnavailable, match=r"\$\{NOT_HERE\} in username"):
        await runner.run(ask())
    assert instance_of(house).is_live


async def test_settings_the_server_cannot_read_cost_a_new_instance(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """A server that refused its settings answers nothing any more: it is ended with the reason, what it read unsaid."""
    house.make_server = MisreadingOpenCode
    await (await manager.create_runner(spec)).run(ask())
    runner = await manager.create_runner(with_(spec, opencode={"username": "x"}))
    assert runner.record.status is RunnerStatus.STOPPED
    assert "cannot read its settings: mcp.x.command: Expected array." in str(runner.record.reason)
    assert (await runner.run(ask())).success
    assert house.starts == ["alice", "alice"]


async def test_an_engine_that_is_away_fails_no_create(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spec is stored; the change is applied when the engine is back."""
    await (await manager.create_runner(spec)).run(ask())

    async def away(*_: Any, **__: Any) -> None:
        raise EngineUnavailable("No engine answers.")

    with monkeypatch.context() as broken:
        broken.setattr(house.backend, "deliver", away)
        runner = await manager.create_runner(with_(spec, opencode={"username": "x"}))
        assert [each.what for each in await runner.pending_changes()] == ["settings"]
    assert (await runner.run(ask())).success
    assert (house.starts, await runner.pending_changes()) == (["alice"], [])


async def test_rotated_secrets_reach_the_instance_that_runs(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new value is delivered and read; same instance. Without a live one nothing happens, and no value is an error."""
    monkeypatch.setenv("ROTATING", "value-number-one")
    keyed = with_(spec, opencode={"provider": {"fake": {"options": {"apiKey": "${ROTATING}"}}}})
    runner = await manager.create_runner(keyed)
    await manager.rotate_secrets("alice")
    assert house.starts == []
    await runner.run(ask())
    monkeypatch.setenv("ROTATING", "value-number-two")
    await manager.rotate_secrets("alice")
    assert instance_of(house).files.secrets["env-ROTATING"] == b"value-number-two"
    assert (house.starts, disposals(house)) == (["alice"], 1)
    monkeypatch.delenv("ROTATING")
    with pytest.raises(SecretUnavailable, match="ROTATING"):
        await manager.rotate_secrets("alice")
    assert instance_of(house).files.secrets["env-ROTATING"] == b"value-number-two"


async def test_mcp_servers_are_told_as_the_server_sees_them(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Without an instance: as they are configured."""
    servers = {"b": {"command": ["serve"]}, "a": {"url": "https://mcp.example/", "enabled": False}}
    runner = await manager.create_runner(with_(spec, mcp=servers))
    assert await runner.mcp() == [McpState("a", "disabled"), McpState("b", "not_running")]
    await runner.run(ask())
    house.servers["alice"].mcp = {"b": {"status": "failed", "error": "Connection closed"}, "a": {"status": "disabled"}}
    assert await runner.mcp() == [McpState("a", "disabled"), McpState("b", "failed", "Connection closed")]


async def test_a_runs_model_of_a_provider_the_agent_does_not_have_is_refused(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Before anything is sent, with what to do; one that is configured works."""
    both = with_(spec, opencode={"provider": {"other": {}}})
    runner = await manager.create_runner(both)
    with pytest.raises(InvalidInput, match="no provider 'third', which third/model needs; it has fake, other"):
        await runner.run(ask(model="third/model"))
    assert house.starts == []
    assert (await runner.run(ask(model="other/model"))).success


async def test_settings_known_to_be_wrong_are_refused_at_once(manager: RunnerManager, spec: AgentSpec) -> None:
    """Nothing is stored."""
    with pytest.raises(InvalidInput, match=r"opencode\.provider\.x is no object"):
        await manager.create_runner(with_(spec, opencode={"provider": {"x": "y"}}))
    assert await manager.list_runners() == []


async def test_a_rotation_waits_for_an_instance_that_starts(
    house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that waits for its place has read its secrets already: the rotation comes after it, not to nothing."""
    monkeypatch.setenv("ROTATING", "value-number-one")
    keyed = with_(spec, opencode={"provider": {"fake": {"options": {"apiKey": "${ROTATING}"}}}})
    async with house.manager(max_containers=1) as manager:
        await manager.create_runner(with_(spec, agent_id="bob"))
        await manager.start_runner("bob")
        runner = await manager.create_runner(keyed)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, ask())
            while await manager._usable().install.store.get_lease("alice") is None:
                await anyio.sleep(0.01)
            await anyio.sleep(0.3)
            monkeypatch.setenv("ROTATING", "value-number-two")
            tasks.start_soon(manager.rotate_secrets, "alice")
            await anyio.sleep(0.1)
            await manager.stop_runner("bob")
        assert instance_of(house).files.secrets["env-ROTATING"] == b"value-number-two"
        assert (house.starts, disposals(house)) == (["bob", "alice"], 1)


async def test_a_change_that_is_given_up_leaves_a_stream_that_works(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Cancelled while the old stream is being closed: the next turn has one of its own, whoever ended the change."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    live = manager._usable().instances.last_used("alice")
    assert live is not None
    closing, close = anyio.Event(), live.events.aclose

    async def close_slowly() -> None:
        await close()
        closing.set()
        await anyio.sleep_forever()

    live.events.aclose = close_slowly  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.create_runner, with_(spec, opencode={"username": "x"}))
        await closing.wait()
        tasks.cancel_scope.cancel()
    parts = manager._usable()
    row = await parts.install.store.get_agent("alice")
    assert row.runner.settings_hash is None
    async with parts.leased("alice", "test"):  # as another manager that finished the change would leave it
        target = parts.instances.planner.target(row.spec)
        await parts.install.save_runner(row.runner.settled(settings_hash=target.settings_hash, limits=target.limits))
    assert (await runner.run(ask())).success
    assert (house.starts, disposals(house)) == (["alice"], 1)


async def test_a_start_that_cannot_be_recorded_leaves_nothing(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that is ready and of which the store does not say so would keep its place for ever."""
    runner = await manager.create_runner(spec)
    install = manager._usable().install
    save = install.store.save_runner

    async def refuse_ready(record: RunnerRecord, *, manager_id: str) -> None:
        if record.status is RunnerStatus.READY:
            raise StoreBusy("The disk is busy.")
        await save(record, manager_id=manager_id)

    with monkeypatch.context() as broken:
        broken.setattr(install.store, "save_runner", refuse_ready)
        with pytest.raises(StoreBusy):
            await runner.run(ask())
    assert (runner.status, house.backend._instances) == (RunnerStatus.FAILED, {})
    assert (await runner.run(ask())).success


async def test_an_instance_that_is_gone_leaves_no_password_to_look_for(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """The redactor of a manager that lives for months does not grow with each start."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    install = manager._usable().install
    first = install.password_of(runner.record.instance_id or "")
    assert first not in install.redactor.redact(first)
    await manager.stop_runner("alice")
    await runner.run(ask())
    second = install.password_of(runner.record.instance_id or "")
    assert (first in install.redactor.redact(first), second in install.redactor.redact(second)) == (True, False)


async def test_a_server_that_fails_is_not_called_gone(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """What it answers instead of the states of its MCP servers is raised."""
    house.make_server = MisreadingOpenCode
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    await house.servers["alice"].dispose()
    with pytest.raises(ServerRejected, match="cannot read its settings"):
        await runner.mcp()


async def test_limits_whose_change_was_interrupted_are_not_taken_for_the_former_ones(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine changed them and its answer was lost; then the spec is as before: the instance gets its former limits back."""
    await (await manager.create_runner(spec)).run(ask())
    before = instance_of(house).limits
    update = house.backend.update_limits

    async def without_answer(*given: Any) -> None:
        await update(*given)
        raise EngineUnavailable("No engine answers.")

    with monkeypatch.context() as broken:
        broken.setattr(house.backend, "update_limits", without_answer)
        await manager.create_runner(with_(spec, resources={"memory_mb": 1024}))
    assert instance_of(house).limits != before
    runner = await manager.create_runner(spec)
    assert (instance_of(house).limits, await runner.pending_changes()) == (before, [])


async def test_a_server_that_another_manager_let_read_anew_gets_no_plugin_unseen(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """OpenCode loads plugins at the first prompt after that: whoever sends it looks at the workspace, though it drove a turn before."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    async with house.manager(on_shutdown="leave") as other:
        await other.create_runner(with_(spec, opencode={"username": "x"}))
    assert disposals(house) == 1
    plugin = house.data_dir / "workspace" / "alice" / ".opencode" / "plugin" / "stranger.js"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("")
    with pytest.raises(InvalidInput, match=r"stranger\.js"):
        await runner.run(ask())
    plugin.unlink()
    assert (await runner.run(ask())).success


async def test_a_change_that_takes_long_leaves_no_half_ended_instance(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than its author waits, or cut short by Ctrl-C: the end it began is a whole one, and its place is free."""
    stop, stopping = house.backend.stop, anyio.Event()

    async def stop_slowly(*args: Any, **more: Any) -> None:
        stopping.set()
        await anyio.sleep(0.3)
        await stop(*args, **more)

    monkeypatch.setattr(house.backend, "stop", stop_slowly)
    monkeypatch.setattr("cnap_runner.runner.parts.CATCH_UP_SECONDS", 0.1)
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    await manager.create_runner(with_(spec, labels={"a": "b"}))
    assert (await manager.get_runner("alice")).status is RunnerStatus.STOPPED
    await runner.run(ask())
    stopping = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.create_runner, with_(spec, labels={"a": "c"}))
        await stopping.wait()
        tasks.cancel_scope.cancel()
    assert (await manager.get_runner("alice")).status is RunnerStatus.STOPPED


async def test_a_rotation_by_another_manager_lets_no_plugin_in_unseen(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """The server is about to read its workspace anew, though no setting changed; what the agent writes in between is its own doing."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    plugin = manager.settings.data_dir / "workspace" / "alice" / ".opencode" / "plugin" / "a.ts"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("x")
    assert (await runner.run(ask())).success
    plugin.unlink()
    async with house.manager() as other:
        await other.rotate_secrets("alice")
    plugin.write_text("x")
    with pytest.raises(InvalidInput, match="would run as a plugin"):
        await runner.run(ask())
