"""RunnerManager and Runner, on fakes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Outcome, RunnerError, RunnerManager, RunnerStatus, RunRequest, StatusCallback, wiring
from cnap_runner.errors import (
    InvalidInput,
    ManagerUnusable,
    RunInProgress,
    RunnerNotFound,
    RunTimedOut,
    SecretWarning,
    ServerNotReady,
    ServerRefusedPassword,
    StoreBusy,
    UnsupportedServerVersion,
)
from cnap_runner.model.instance import InstanceStatus
from cnap_runner.store.sql import SqlStore
from cnap_runner.testing.fake_opencode import (
    BrokenDatabaseOpenCode,
    Fail,
    FakeOpenCode,
    Hold,
    MuteStreams,
    Say,
    Version2OpenCode,
)

Ask = Callable[..., RunRequest]


async def test_create_starts_nothing_and_run_does(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """A known agent costs nothing until it works."""
    runner = await manager.create_runner(spec)
    assert (runner.status, house.starts) == (RunnerStatus.PENDING, [])
    assert (house.data_dir / "workspace" / "alice").is_dir()
    result = await runner.run(ask("hello"))
    assert (result.success, result.output, result.agent_id, result.task_id) == (True, "HELLO", "alice", "main")
    assert (runner.status, house.starts) == (RunnerStatus.READY, ["alice"])


async def test_create_is_idempotent(manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask) -> None:
    """The same spec again keeps the instance; tasks go on."""
    runner = await manager.create_runner(spec)
    first = await runner.run(ask())
    again = await (await manager.create_runner(spec)).run(ask())
    assert house.starts == ["alice"]
    assert first.session_id == again.session_id


async def test_each_task_has_a_session_of_its_own(manager: RunnerManager, spec: AgentSpec, ask: Ask) -> None:
    """Two tasks of one agent share the instance, not the conversation."""
    runner = await manager.create_runner(spec)
    a1, b, a2 = [await runner.run(ask(task_id=task)) for task in ("a", "b", "a")]
    assert a1.session_id == a2.session_id != b.session_id


async def test_a_lost_session_is_replaced(manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask) -> None:
    """A state folder wiped by hand costs the conversation, not the agent."""
    runner = await manager.create_runner(spec)
    first = await runner.run(ask())
    house.servers["alice"].forget_session(first.session_id)
    second = await runner.run(ask())
    assert second.success
    assert second.session_id != first.session_id


async def test_only_what_is_new_is_sent_with_the_runs_own_words(
    manager: RunnerManager, house: Any, spec: AgentSpec
) -> None:
    """The session remembers the rest; the request's model and system prompt win over the agent's."""
    runner = await manager.create_runner(spec.model_copy(update={"system_prompt": "agent's"}))
    messages = [
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "OLD"},
        {"role": "user", "content": "new", "files": [{"name": "a.txt", "content": b"file"}]},
    ]
    await runner.run(RunRequest(messages=messages))
    await runner.run(RunRequest(messages=messages, system_prompt="run's", model="fake/other"))
    first, second = house.servers["alice"].bodies
    assert [part.get("text") or part["filename"] for part in first["parts"]] == ["new", "a.txt"]
    assert (first["system"], second["system"]) == ("agent's", "run's")
    assert (first["model"]["modelID"], second["model"]["modelID"]) == ("demo", "other")


async def test_a_file_that_cannot_be_read_is_refused_before_anything_starts(
    manager: RunnerManager, house: Any, spec: AgentSpec, tmp_path: Path
) -> None:
    """The error names the file; the ledger has no entry."""
    runner = await manager.create_runner(spec)
    request = RunRequest(messages=[{"role": "user", "content": "x", "files": [str(tmp_path / "nowhere.txt")]}])
    with pytest.raises(RunnerError, match=r"nowhere\.txt cannot be attached"):
        await runner.run(request)
    assert (house.starts, await manager.list_runs()) == ([], [])


async def test_a_file_of_an_agent_is_attached_without_following_its_links(
    manager: RunnerManager, house: Any, spec: AgentSpec, tmp_path: Path
) -> None:
    """An agent cannot make the manager read other files by links in its workspace, nor wait for ever by a pipe."""
    runner = await manager.create_runner(spec)
    workspace = house.data_dir / "workspace" / "alice"
    (tmp_path / "secret.txt").write_text("secret")
    (workspace / "sub").mkdir()
    (workspace / "sub" / "real.txt").write_text("real")
    (workspace / "link.txt").symlink_to(tmp_path / "secret.txt")
    (workspace / "folder").symlink_to(tmp_path)
    os.mkfifo(workspace / "pipe")
    for wrong in ("link.txt", "folder/secret.txt", "pipe", "sub", "sub/../link.txt"):
        request = RunRequest(messages=[{"role": "user", "content": "x", "files": [str(workspace / wrong)]}])
        with pytest.raises(RunnerError, match="cannot be attached"):
            await runner.run(request)
    good = RunRequest(messages=[{"role": "user", "content": "x", "files": [str(workspace / "sub" / "real.txt")]}])
    assert (await runner.run(good)).success


async def test_a_providers_error_is_a_failed_result(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """It does not raise: the prompt was sent. The provider's message is in it."""
    house.script([Fail("No credit left.", status=401)])
    result = await (await manager.create_runner(spec)).run(ask())
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert "No credit left." in result.error.message


async def test_the_stream_ends_with_the_result(manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask) -> None:
    """States, text, and the result as the last event."""
    house.script([Say("Hello ", "world")])
    runner = await manager.create_runner(spec)
    events = [event async for event in runner.stream(ask())]
    assert "".join(event.text for event in events if event.type == "text_delta") == "Hello world"
    states = [str(event.state) for event in events if event.type == "status"]
    assert states == ["queued", "starting", "sending", "running", "ended"]
    assert events[-1].type == "ended"
    assert events[-1].result.output == "Hello world"


async def test_leaving_the_stream_aborts_the_turn(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Nobody is left to hear it; the agent is usable at once."""
    house.script([Say("begins"), Hold()])
    runner = await manager.create_runner(spec)
    async with aclosing(runner.stream(ask())) as events:
        async for event in events:
            if event.type == "text_delta":
                break
    (run,) = await manager.list_runs("alice")
    assert run.result is not None
    assert run.result.outcome is Outcome.ABORTED
    assert (await runner.run(ask("next"))).output == "NEXT"


async def test_what_is_found_after_the_stream_was_left_harms_nothing(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Text that is read while the turn is wound up has no listener any more; the entry is ended all the same."""
    house.script([Say("begins"), MuteStreams(), Say("unheard"), Hold()])
    runner = await manager.create_runner(spec)
    async with aclosing(runner.stream(ask())) as events:
        async for event in events:
            if event.type == "text_delta":
                break
    (run,) = await manager.list_runs("alice")
    assert run.result is not None
    assert run.result.outcome is Outcome.ABORTED
    assert (await runner.run(ask("next"))).output == "NEXT"


async def test_abort_ends_only_the_runs_of_its_task(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """The one under way ends as aborted, the other task's goes on."""
    house.script([Say("a"), Hold()])
    runner = await manager.create_runner(spec)
    results: dict[str, Any] = {}

    async def run(task: str) -> None:
        results[task] = await runner.run(ask(task_id=task))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "one")
        await until(lambda: len(house.prompts) == 1)
        tasks.start_soon(run, "two")
        await anyio.sleep(0.05)
        await runner.abort("one")
    assert results["one"].outcome is Outcome.ABORTED
    assert results["one"].output == "a"
    assert results["two"].success


async def test_aborting_nothing_is_no_error(manager: RunnerManager, spec: AgentSpec) -> None:
    """There is nothing to wait for."""
    await (await manager.create_runner(spec)).abort("main")


async def test_a_run_waits_its_turn_or_is_refused(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Turns of one agent go one at a time, in order; ``wait=False`` does not wait."""
    house.script([Say("first"), Hold()])
    runner = await manager.create_runner(spec)
    outputs: list[str] = []

    async def run(prompt: str) -> None:
        outputs.append((await runner.run(ask(prompt))).output)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "one")
        await until(lambda: house.prompts == ["one"])
        for prompt in ("two", "three"):
            tasks.start_soon(run, prompt)
            await anyio.sleep(0.02)
        with pytest.raises(RunInProgress):
            await runner.run(ask("impatient", wait=False))
        assert house.prompts == ["one"]
        house.servers["alice"].release()
    assert outputs == ["first", "TWO", "THREE"]
    assert house.prompts == ["one", "two", "three"]


async def test_time_that_is_over_in_the_queue_is_raised_and_nothing_is_sent(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """The entry says not sent; the run before it is not disturbed."""
    house.script([Say("first"), Hold()])
    runner = await manager.create_runner(spec)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, ask("one"))
        await until(lambda: house.prompts == ["one"])
        with pytest.raises(RunTimedOut):
            await runner.run(ask("late", timeout=0.2))
        house.servers["alice"].release()
    late, first = await manager.list_runs("alice")
    assert late.result is not None
    assert late.result.error is not None
    assert (late.result.outcome, late.result.error.code) == (Outcome.TIMED_OUT, "not_sent")
    assert first.result is not None
    assert first.result.success
    assert house.prompts == ["one"]


async def test_a_turn_that_takes_too_long_is_timed_out_with_what_it_said(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """``timeout`` counts from the call, ``max_run_time`` from sending."""
    house.script([Say("half an ans"), Hold()], [Say("half again"), Hold()])
    runner = await manager.create_runner(spec)
    by_timeout = await runner.run(ask(timeout=1))
    assert (by_timeout.outcome, by_timeout.output) == (Outcome.TIMED_OUT, "half an ans")
    runner = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", life={"max_run_time": 0.5}))
    by_limit = await runner.run(ask())
    assert (by_limit.outcome, by_limit.output) == (Outcome.TIMED_OUT, "half again")
    assert (await runner.run(ask("next"))).output == "NEXT"


async def test_a_death_in_mid_turn_fails_the_run_and_the_next_starts_anew(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """It does not hang, it is no success, and the session goes on."""
    house.script([Say("half"), Hold()])
    runner = await manager.create_runner(spec)
    is_killed = False
    async with aclosing(runner.stream(ask())) as events:
        async for event in events:
            # The last letters come later where they could be the beginning of a password.
            if event.type == "text_delta" and not is_killed:
                await house.kill()
                is_killed = True
            elif event.type == "ended":
                result = event.result
    assert result.error is not None
    assert (result.outcome, result.error.code, result.output) == (Outcome.FAILED, "instance_died", "half")
    assert runner.status is RunnerStatus.FAILED
    again = await runner.run(ask("again"))
    assert (again.output, again.session_id) == ("AGAIN", result.session_id)


async def test_a_death_while_idle_shows_and_is_explained(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Without being asked for."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    await house.kill()
    await until(lambda: runner.status is RunnerStatus.FAILED)
    assert runner.record.reason == "it was killed by signal 9"


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (Version2OpenCode, UnsupportedServerVersion),
        (BrokenDatabaseOpenCode, ServerNotReady),
        (lambda _: FakeOpenCode("another password"), ServerRefusedPassword),
        (lambda password: FakeOpenCode(password, version="1.17.0"), UnsupportedServerVersion),
    ],
)
async def test_a_server_that_will_not_do_is_one_clear_error_and_leaves_nothing(
    house: Any, spec: AgentSpec, ask: Ask, server: Any, error: type[RunnerError]
) -> None:
    """Version, password and readiness are found out before anything is sent."""
    house.make_server = server
    async with house.manager(health_timeout=1, max_retries=0) as manager:
        runner = await manager.create_runner(spec)
        with pytest.raises(error) as caught:
            await runner.run(ask())
        assert caught.value.hint
        assert runner.status is RunnerStatus.FAILED
        assert house.backend._instances == {}
        house.make_server = FakeOpenCode
        assert (await runner.run(ask("well"))).output == "WELL"


async def test_an_own_image_with_an_own_opencode_is_not_for_our_build_command(
    house: Any, spec: AgentSpec, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be built anew is the agent's image, not ours."""
    monkeypatch.setattr(wiring, "_kit_for", lambda *_, **__: None)  # as of an image that says it has OpenCode
    house.make_server = Version2OpenCode
    async with house.manager(health_timeout=1) as manager:
        runner = await manager.create_runner(spec.model_copy(update={"image": "team/tools:1"}))
        with pytest.raises(UnsupportedServerVersion) as caught:
            await runner.run(ask())
    assert str(caught.value.hint).startswith("Image team/tools:1 is the agent's own")


async def test_stop_keeps_the_session(manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask) -> None:
    """The next run starts a new instance and goes on."""
    runner = await manager.create_runner(spec)
    first = await runner.run(ask())
    await manager.stop_runner("alice")
    assert (await manager.get_runner("alice")).status is RunnerStatus.STOPPED
    await manager.stop_runner("alice")
    second = await runner.run(ask())
    assert (second.session_id, house.starts) == (first.session_id, ["alice", "alice"])


async def test_delete_forgets_the_agent_and_keeps_its_files(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """A later agent of that id goes on with them; ``delete_workspace`` ends all of it; an unknown id is no error."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    workspace = house.data_dir / "workspace" / "alice"
    (workspace / "kept.txt").write_text("x")
    await manager.delete_runner("alice")
    with pytest.raises(RunnerNotFound):
        await manager.get_runner("alice")
    assert (workspace / "kept.txt").exists()
    assert house.backend._instances == {}
    await manager.create_runner(spec)
    await manager.delete_runner("alice", delete_workspace=True)
    assert not workspace.exists()
    assert not (house.data_dir / "agents" / "alice").exists()
    await manager.delete_runner("alice")
    await manager.delete_runner("nobody", delete_workspace=True)


async def test_purge_leaves_no_agent_and_no_instance(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """Everything of the install goes."""
    await (await manager.create_runner(spec)).run(ask())
    await manager.purge()
    assert (await manager.list_runners(), house.backend._instances) == ([], {})


async def test_purge_removes_what_deleted_agents_left(manager: RunnerManager, house: Any) -> None:
    """Their workspaces were kept for a later agent of that id, and there will be none; literal secrets go too."""
    with pytest.warns(SecretWarning):
        await manager.create_runner(
            AgentSpec(agent_id="gone", model="fake/demo", secrets={"K": "literal:a-planted-value"})
        )
    await manager.delete_runner("gone")
    assert [info.agent_id for info in await manager.list_workspaces()] == ["gone"]
    await manager.purge()
    assert (await manager.list_workspaces(), await manager.list_secrets()) == ([], [])


async def test_at_its_end_a_manager_stops_or_leaves_what_it_used(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """``on_shutdown`` decides; what is left is adopted by the next, without a new start."""
    async with house.manager(on_shutdown="leave") as manager:
        await (await manager.create_runner(spec)).run(ask())
    assert [i.is_live for i in house.backend._instances.values()] == [True]
    async with house.manager() as manager:
        runner = await manager.get_runner("alice")
        assert (await runner.run(ask("adopted"))).output == "ADOPTED"
        assert house.starts == ["alice"]
    assert [i.is_live for i in house.backend._instances.values()] == [False]


async def test_what_somebody_froze_and_left_is_thawed_at_its_next_use(
    manager: RunnerManager, house: Any, spec: AgentSpec, ask: Ask
) -> None:
    """An export that was killed, say: whoever used the instance before does not talk to one that cannot answer."""
    runner = await manager.create_runner(spec)
    await runner.run(ask())
    (instance,) = house.backend._instances.values()
    await house.backend.pause(instance.observation().ref)
    await anyio.sleep(0.1)
    assert (await runner.run(ask("again"))).success
    assert (instance.observation().status, house.starts) == (InstanceStatus.RUNNING, ["alice"])


async def test_an_agent_that_another_living_manager_uses_is_not_stopped(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """The last one that used it stops it."""
    async with house.manager() as last:
        async with house.manager() as first:
            await (await first.create_runner(spec)).run(ask())
            await (await last.get_runner("alice")).run(ask())
        assert [i.is_live for i in house.backend._instances.values()] == [True]
        assert (await (await last.get_runner("alice")).run(ask("still here"))).success
    assert [i.is_live for i in house.backend._instances.values()] == [False]


async def test_closing_ends_the_turns_under_way(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """A run that is not done in the time there is ends as aborted, with its entry settled."""
    house.script([Say("half"), Hold()])
    results: list[Any] = []
    async with anyio.create_task_group() as tasks, house.manager(shutdown_timeout=6, stop_timeout=1) as manager:
        runner = await manager.create_runner(spec)

        async def run() -> None:
            results.append(await runner.run(ask()))

        tasks.start_soon(run)
        await until(lambda: len(house.prompts) == 1)
    assert [result.outcome for result in results] == [Outcome.ABORTED]


async def test_closing_lets_turns_end_that_are_nearly_done(house: Any, spec: AgentSpec, ask: Ask) -> None:
    """What ends within the shutdown's limit has its own end, and its agent is stopped after it."""
    house.script([Say("half"), Hold(), Say("whole")])
    results: list[Any] = []
    async with anyio.create_task_group() as tasks, house.manager() as manager:
        runner = await manager.create_runner(spec)

        async def run() -> None:
            results.append(await runner.run(ask()))

        async def let_go() -> None:
            await until(lambda: manager._is_closing)
            house.servers["alice"].release()

        tasks.start_soon(run)
        await until(lambda: len(house.prompts) == 1)
        tasks.start_soon(let_go)
    assert [(result.outcome, result.output) for result in results] == [(Outcome.SUCCEEDED, "halfwhole")]
    assert house.backend.live("alice") == []


async def test_callbacks_are_told_of_a_refusal(manager: RunnerManager, spec: AgentSpec, ask: Ask) -> None:
    """``on_error`` and the raised error are the same."""
    heard: list[RunnerError] = []

    class Callback(StatusCallback):
        async def on_error(self, task_id: str, error: RunnerError, /) -> None:
            heard.append(error)

    runner = await manager.create_runner(spec)
    await manager.delete_runner("alice")
    with pytest.raises(RunnerNotFound) as caught:
        await runner.run(ask(), Callback())
    assert heard == [caught.value]


async def test_a_manager_is_used_inside_its_context_once(house: Any, spec: AgentSpec) -> None:
    """Before, after and twice are one clear error each."""
    manager = house.manager()
    with pytest.raises(ManagerUnusable, match="was not entered"):
        await manager.create_runner(spec)
    async with manager:
        pass
    with pytest.raises(ManagerUnusable, match="is closed"):
        await manager.list_runners()
    with pytest.raises(ManagerUnusable, match="entered once"):
        await manager.__aenter__()


async def test_a_manager_refuses_to_work_in_a_forked_child(
    manager: RunnerManager, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has no lock, no connections and no loop of its own."""
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ManagerUnusable, match="forked child"):
            await manager.create_runner(spec)


async def test_bad_ids_are_refused_everywhere(manager: RunnerManager) -> None:
    """No path trick gets through any door."""
    for call in (
        manager.get_runner,
        manager.start_runner,
        manager.stop_runner,
        manager.delete_runner,
        manager.list_runs,
    ):
        with pytest.raises(RunnerError, match="is not an id"):
            await call("../etc")


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not is_so():
            await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "problem"), [("{bad", "is not JSON"), ("[]", "is not a JSON object"), ("\udcff", "is not JSON")]
)
async def test_a_template_that_cannot_be_used_is_one_clear_error(house: Any, text: str, problem: str) -> None:
    """Raised as it is where the manager is entered, not in a group; the next attempt works."""
    template = house.data_dir / "configs" / "opencode" / "default-config.json"
    template.parent.mkdir(parents=True)
    template.write_text(text, errors="surrogateescape")
    with pytest.raises(InvalidInput, match=problem):
        async with house.manager():
            pass
    template.write_text('{"mcp": null}')
    async with house.manager() as manager:
        assert await manager.list_runners() == []


async def test_a_store_that_fails_at_the_beginning_is_one_clear_error(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the manager's tasks are in a group already."""

    async def busy(*_: Any, **__: Any) -> None:
        raise StoreBusy("The disk is busy.")

    monkeypatch.setattr(SqlStore, "forget_dead_managers", busy)
    with pytest.raises(StoreBusy):
        async with house.manager():
            pass


async def test_an_archive_is_named_by_text_or_a_path(manager: RunnerManager, spec: AgentSpec, tmp_path: Path) -> None:
    """As files are everywhere in Python; anything else is one error of ours."""
    await manager.create_runner(spec)
    await manager.export_agent("alice", str(tmp_path / "x.tgz"))
    assert (await manager.import_agent(str(tmp_path / "x.tgz"), agent_id="bob")).agent_id == "bob"
    with pytest.raises(InvalidInput, match="not by int"):
        await manager.export_agent("alice", 7)  # type: ignore[arg-type]
