"""What was wrong in the original (its known defects, in their order) and is not here; each is played through a task where it concerns one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from cnap_runner import AgentSpec, RunnerError, RunnerManager
from cnap_runner.backends.docker.framing import Frame, FrameDecoder
from cnap_runner.controller import Executor
from cnap_runner.errors import InstanceStartFailed, RunInProgress
from cnap_runner.model.events import RunEnded, TextDelta
from cnap_runner.model.instance import InstanceRef, InstanceSpec
from cnap_runner.model.task import TaskRecord, TaskState
from cnap_runner.testing.fake_opencode import Fail, Hold, Say
from cnap_runner.testing.house import House

if TYPE_CHECKING:
    from tests.unit.controller.conftest import Heard

Until = Callable[[Callable[[], bool]], Awaitable[None]]

REAL = re.compile(r"(GET|POST) /(global/health|event|mcp|config|session|session/status|session/ses_?\w+(/\w+)*)")
"""What the real server has, of what a turn may ask of it (docs/opencode.md)."""


@pytest.fixture
def specs(house: House, monkeypatch: pytest.MonkeyPatch) -> list[InstanceSpec]:
    """Every instance that is asked for, as its backend is asked."""
    seen: list[InstanceSpec] = []
    create = house.backend.create

    async def watched(spec: InstanceSpec) -> InstanceRef:
        seen.append(spec)
        return await create(spec)

    monkeypatch.setattr(house.backend, "create", watched)
    return seen


async def turn(executor: Executor, prompt: str = "one", *, agent_id: str = "alice", task_id: str = "t") -> TaskRecord:
    """Make a task and do its first turn."""
    await executor.tasks.create(agent_id, prompt, task_id=task_id)
    await executor.execute(task_id)
    return await executor.wait(task_id)


async def test_d01_only_what_the_real_server_has_is_asked_of_it(executor: Executor, house: House) -> None:
    """No ``/health``, no ``/api/sessions``, no ``/api/chat``."""
    await turn(executor)
    asked = house.servers["alice"].requests
    assert [request for request in asked if not REAL.fullmatch(request.split("?")[0])] == []
    assert any(request.endswith("/prompt_async") for request in asked)


async def test_d02_a_stopped_runner_is_no_live_one(executor: Executor, manager: RunnerManager, house: House) -> None:
    """Whoever asks sees that it is stopped, stopping it twice at once is stopping it once, and the next turn starts it anew."""
    await turn(executor)
    await asyncio.gather(manager.stop_runner("alice"), manager.stop_runner("alice"))
    assert (await manager.get_runner("alice")).status == "stopped"
    assert house.backend.live("alice") == []
    await executor.send("t", "two")
    assert (await executor.wait("t")).state is TaskState.WAITING
    assert house.starts == ["alice", "alice"]


async def test_d03_a_start_that_fails_is_tried_again(
    executor: Executor, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error says of itself that trying again may help, so that nobody has to unwrap it."""
    start, failures = house.backend.start, [InstanceStartFailed("not now")]

    async def fail_once(*args: Any, **more: Any) -> str:
        if failures:
            raise failures.pop()
        return await start(*args, **more)

    monkeypatch.setattr(house.backend, "start", fail_once)
    assert InstanceStartFailed.retryable
    assert (await turn(executor)).state is TaskState.WAITING
    assert failures == []


async def test_d04_limits_reach_the_instance(
    executor: Executor, manager: RunnerManager, specs: list[InstanceSpec]
) -> None:
    """Memory, CPU and processes, the agent's own or those of the settings."""
    await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", resources={"memory_mb": 777, "cpus": 1}))
    await turn(executor)
    limits = specs[0].limits
    assert (limits.memory_bytes, limits.cpus) == (777 << 20, 1)
    assert limits.pids == manager.parts.install.settings.pids


async def test_d05_of_two_turns_asked_for_at_once_one_is_refused(executor: Executor, house: House) -> None:
    """Both cannot pass the same check: it is made where the state is written."""
    house.script([Say("one")], [Say("done")])
    await turn(executor)
    results = await asyncio.gather(executor.send("t", "a"), executor.send("t", "b"), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [RunInProgress.__name__, TaskRecord.__name__]
    await executor.wait("t")
    assert len(house.prompts) == 2


async def test_d06_a_result_names_its_model_and_trouble_is_told_once(
    executor: Executor, manager: RunnerManager, house: House, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a listener, that is while it streams, too; a turn ends either with a result or with an error."""
    house.script([Say("fine")], [Fail("no")])
    task = await turn(executor)
    result = (await manager.get_run(task.run_id or "")).result
    assert result is not None
    assert result.model == "fake/demo"
    await executor.send("t", "two")
    await executor.wait("t")
    assert [state for _, state in heard.states] == ["pending", "running", "waiting", "running", "failed"]
    assert [type(told) for told in heard.all if isinstance(told, RunEnded | RunnerError)] == [RunEnded, RunEnded]
    heard.all.clear()

    async def refuse(*_: object, **__: object) -> str:
        raise InstanceStartFailed("no luck")

    monkeypatch.setattr(house.backend, "start", refuse)
    await turn(executor, agent_id="bob", task_id="u")
    assert [state for _, state in heard.states] == ["pending", "running", "failed"]
    assert sum(isinstance(told, RunEnded | RunnerError) for told in heard.all) == 1


async def test_d07_the_first_prompt_is_sent_once_and_fragments_move_nothing(
    executor: Executor, house: House, heard: Heard
) -> None:
    """A later turn sends its own message alone; a turn of many pieces changes the task twice."""
    house.script([Say("one")], [Say(*"many pieces")])
    await turn(executor, "the first prompt")
    heard.all.clear()
    await executor.send("t", "the second")
    await executor.wait("t")
    assert house.prompts == ["the first prompt", "the second"]
    assert sum(isinstance(told, TextDelta) for told in heard.all) > 2
    assert [state for _, state in heard.states] == ["running", "waiting"]


async def test_d08_an_instance_that_dies_is_noticed_without_being_asked(
    executor: Executor, manager: RunnerManager, house: House, until: Until
) -> None:
    """In the middle of a turn the task fails with it; an idle one shows as failed."""
    house.script([Hold()])
    await executor.tasks.create("alice", "one", task_id="t")
    await executor.execute("t")
    await until(lambda: bool(house.prompts))
    await house.kill("alice")
    failed = await executor.wait("t")
    assert (failed.state, "ended in the middle of the turn" in (failed.reason or "")) == (TaskState.FAILED, True)
    await turn(executor, agent_id="bob", task_id="u")
    runner = await manager.get_runner("bob")
    await house.kill("bob")
    await until(lambda: runner.status == "failed")


def test_d09_the_engines_log_frames_are_taken_apart() -> None:
    """The eight bytes before each piece are read, not shown, even where a line is cut in two."""
    data = b"\x01\x00\x00\x00\x00\x00\x00\x05hello" + b"\x02\x00\x00\x00\x00\x00\x00\x04oops"
    decoder = FrameDecoder()
    frames = [*decoder.feed(data[:11]), *decoder.feed(data[11:])]
    assert frames == [Frame("stdout", b"hello"), Frame("stderr", b"oops")]


async def test_d10_each_mcp_server_has_its_own_environment(
    executor: Executor, manager: RunnerManager, house: House, specs: list[InstanceSpec]
) -> None:
    """Two servers may use one name, a disabled one gives nothing away, and nothing of theirs is the container's."""
    servers: dict[str, Mapping[str, Any]] = {
        "a": {"command": ["a"], "environment": {"TOKEN_PATH": "/a"}},
        "b": {"command": ["b"], "environment": {"TOKEN_PATH": "/b"}, "enabled": False},
    }
    row = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", mcp=servers))
    config = manager.parts.instances.planner.configuration(row.spec)
    assert [config["mcp"][name]["environment"]["TOKEN_PATH"] for name in "ab"] == ["/a", "/b"]
    await turn(executor)
    assert "TOKEN_PATH" not in specs[0].environment


async def test_d11_a_stop_has_its_own_time(
    executor: Executor, manager: RunnerManager, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's default of ten seconds decides nothing: the setting does."""
    graces: list[timedelta] = []
    stop = house.backend.stop

    async def watched(ref: InstanceRef, *, grace: timedelta) -> None:
        graces.append(grace)
        await stop(ref, grace=grace)

    monkeypatch.setattr(house.backend, "stop", watched)
    await turn(executor)
    await executor.tasks.complete("t")
    assert graces == [manager.parts.install.settings.stop_timeout]


async def test_d12_what_an_instance_is_given_has_an_order_and_no_folder_twice(
    executor: Executor, manager: RunnerManager, specs: list[InstanceSpec]
) -> None:
    """Two instances of an agent get the same, in the same order; none of its folders lies in another."""
    await turn(executor)
    await manager.stop_runner("alice")
    await executor.send("t", "two")
    await executor.wait("t")
    first, second = specs
    assert list(first.environment.items()) == list(second.environment.items())
    assert first.volumes == second.volumes
    sources = [volume.source for volume in first.volumes]
    assert not any(one != other and one.is_relative_to(other) for one in sources for other in sources)
    assert len({volume.role for volume in first.volumes}) == len(first.volumes) == len(set(sources))
