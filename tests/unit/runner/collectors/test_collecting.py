"""Collecting and reading what agents' servers write, on fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, RunnerManager, RunRequest
from cnap_runner.errors import EngineUnavailable, InstanceNotFound, InvalidInput, RunNotFound
from cnap_runner.runner.collectors import budget, collector, following, scribe
from cnap_runner.runner.collectors.segments import END, OURS, oldest_first, segments_in
from cnap_runner.testing.fake_opencode.script import Say

Ask = Callable[..., RunRequest]
LIMIT_SECONDS = 20


async def texts(runner: Any, **wanted: Any) -> list[str]:
    return [line.text async for line in runner.logs(**wanted) if line.stream != OURS]


def collected(house: Any, agent_id: str = "alice") -> list[str]:
    return [line.text for line in oldest_first(segments_in(house.data_dir / "agents" / agent_id / "logs"))]


def instance_id(house: Any, agent_id: str = "alice") -> str:
    (found,) = [i.spec.instance_id for i in house.backend._instances.values() if i.spec.agent_id == agent_id]
    return str(found)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        while not condition():
            await anyio.sleep(0.02)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is read as soon as it comes, so that a test knows when it was."""
    monkeypatch.setattr(collector, "GATHER_SECONDS", 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribe, "WRITE_SECONDS", 0.01)


@pytest.fixture
async def alice(manager: RunnerManager, house: Any, spec: AgentSpec) -> Any:
    """Alice, whose instance lives and has said one thing."""
    runner = await manager.create_runner(spec)
    await manager.start_runner("alice")
    house.backend.emit(instance_id(house), "first")
    return runner


async def test_output_outlives_its_container(manager: RunnerManager, house: Any, alice: Any, ask: Ask) -> None:
    """Lines of an instance that was removed are read with those of the next one, each with the name of its own."""
    before = instance_id(house)
    await manager.stop_runner("alice")
    await manager.start_runner("alice")
    house.backend.emit(instance_id(house), "second")
    lines = [line async for line in alice.logs() if line.stream != OURS]
    assert before != instance_id(house)
    assert [(line.text, line.instance_id) for line in lines] == [("first", before), ("second", instance_id(house))]


async def test_last_words_are_collected_before_the_removal(manager: RunnerManager, house: Any, alice: Any) -> None:
    """What a manager did not see, because nobody followed then, is read before the container goes."""
    named = instance_id(house)
    await until(lambda: "first" in collected(house))
    for each in manager._usable().logs._following.values():
        each.scope.cancel()
    await anyio.sleep(0.05)
    house.backend.emit(named, "last words")
    house.backend.kill(named)
    await manager.start_runner("alice")
    assert collected(house)[:3] == ["first", "last words", END]


async def test_f02_nothing_is_there_twice_after_a_change_of_managers(house: Any, spec: AgentSpec) -> None:
    """The next manager goes on behind the last collected line."""
    async with house.manager(on_shutdown="leave") as first:
        await first.create_runner(spec)
        await first.start_runner("alice")
        for number in range(5):
            house.backend.emit(instance_id(house), f"line {number}")
        await until(lambda: len(collected(house)) == 5)
    house.backend.emit(instance_id(house), "line 5")
    async with house.manager(on_shutdown="leave") as second:
        await until(lambda: len(collected(house)) == 6)
        house.backend.emit(instance_id(house), "line 6")
        await until(lambda: len(collected(house)) == 7)
        assert await texts(await second.get_runner("alice")) == [f"line {number}" for number in range(7)]
    assert collected(house) == [f"line {number}" for number in range(7)]


async def test_f02_a_manager_that_closes_while_the_disk_is_slow_loses_no_line(house: Any, spec: AgentSpec) -> None:
    """What waits to be written when its collector is cancelled is written all the same, and in order."""
    async with house.manager(on_shutdown="leave") as first:
        await first.create_runner(spec)
        await first.start_runner("alice")
        house.backend.emit(instance_id(house), "one")
        await until(lambda: collected(house) == ["one"])
        turns = first._usable().logs._scribe._turns
        for _ in range(following.THREADS):
            await turns.acquire()
        house.backend.emit(instance_id(house), "two")
        await until(lambda: turns.statistics().tasks_waiting > 0)
        house.backend.emit(instance_id(house), "three")

        async def disk_gets_free() -> None:
            await anyio.sleep(0.1)
            for _ in range(following.THREADS):
                turns.release()

        freeing = asyncio.create_task(disk_gets_free())
    await freeing
    assert collected(house) == ["one", "two", "three"]
    async with house.manager(on_shutdown="leave") as second:
        house.backend.emit(instance_id(house), "four")
        await until(lambda: "four" in collected(house))
        assert await texts(await second.get_runner("alice")) == ["one", "two", "three", "four"]


async def test_two_managers_collect_each_line_once(house: Any, manager: RunnerManager, alice: Any) -> None:
    """One of them follows, the other stands by, and both can read all."""
    async with house.manager() as second:
        house.backend.emit(instance_id(house), "second")
        await until(lambda: len(collected(house)) >= 2)
        assert await texts(await second.get_runner("alice")) == ["first", "second"]
    assert await texts(alice) == ["first", "second"]
    assert collected(house) == ["first", "second"]


async def test_a_reader_does_not_wait_for_the_collector(house: Any, alice: Any) -> None:
    """What is not collected yet is asked of the engine: a line is there as soon as it was said."""
    for number in range(50):
        house.backend.emit(instance_id(house), f"line {number}")
        assert (await texts(alice, tail=1)) == [f"line {number}"]
    assert len(await texts(alice)) == 51


@pytest.mark.parametrize("wanted", [{}, {"follow": True}, {"tail": 10, "follow": True}])
async def test_a_slow_reader_misses_nothing_of_an_instance_that_is_replaced(
    manager: RunnerManager, house: Any, alice: Any, wanted: dict[str, Any]
) -> None:
    """What the engine cannot tell any more was collected before the removal, and is read there."""
    await until(lambda: collected(house) == ["first"])
    seen: list[str] = []
    async for line in alice.logs(**wanted):
        if line.stream != OURS:
            seen.append(line.text)
        if line.text == "first":
            house.backend.emit(instance_id(house), "second")
            house.backend.emit(instance_id(house), "last words")
            await manager.stop_runner("alice")
            await manager.start_runner("alice")
    assert seen == ["first", "second", "last words"]


async def test_a_reader_follows_on_after_an_engine_that_could_not_be_asked(
    manager: RunnerManager, house: Any, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this package says about it is no line of the instance, behind which it would be gone on."""
    await until(lambda: collected(house) == ["first"])
    for each in manager._usable().logs._following.values():
        each.scope.cancel()  # nobody collects any more
    await anyio.sleep(0.05)
    house.backend.emit(instance_id(house), "second")
    asked, logs = [], house.backend.logs

    async def away_at_first(ref: Any, **options: Any) -> AsyncIterator[Any]:
        asked.append(options)
        if len(asked) == 1:
            raise EngineUnavailable("away")
        async for line in logs(ref, **options):
            yield line

    monkeypatch.setattr(house.backend, "logs", away_at_first)
    seen: list[str] = []
    with anyio.fail_after(LIMIT_SECONDS):
        async for line in alice.logs(tail=10, follow=True):
            seen.append(line.text)
            if line.text == "second":
                break
    assert seen == ["first", "the engine cannot be asked for more: away", "second"]


async def test_following_goes_on_until_the_instance_ends(house: Any, alice: Any) -> None:
    """First what was said before, then what comes, each line once."""
    seen: list[str] = []

    async def follow() -> None:
        async for line in alice.logs(tail=1, follow=True):
            seen.append(line.text)  # noqa: PERF401 - it is looked at meanwhile

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await until(lambda: seen == ["first"])
            house.backend.emit(instance_id(house), "second")
            await until(lambda: seen == ["first", "second"])
            house.backend.kill(instance_id(house))
    assert seen == ["first", "second"]


async def test_lines_carry_the_run_of_their_time(house: Any, manager: RunnerManager, alice: Any, ask: Ask) -> None:
    """`run=` gives those alone; a run of somebody else is refused."""

    async def say(event: Any) -> None:
        house.backend.emit(instance_id(house), f"during {request.task_id}")

    house.script([Say("one")], [Say("two")])
    results = []
    for request in (ask(task_id="t1"), ask(task_id="t2")):
        async for event in alice.stream(request):
            if type(event).__name__ == "TextDelta":
                await say(event)
            if type(event).__name__ == "RunEnded":
                results.append(event.result)
        await anyio.sleep(0.01)
        house.backend.emit(instance_id(house), f"after {request.task_id}")
    runs = {line.text: line.run_id async for line in alice.logs() if line.stream != OURS}
    assert runs["first"] is None
    assert runs["during t1"] == results[0].run_id
    assert runs["during t2"] == results[1].run_id
    assert runs["after t1"] is runs["after t2"] is None
    assert set(await texts(alice, run=results[1].run_id)) == {"during t2"}
    assert set(await texts(alice, run=results[1].run_id, follow=True)) == {"during t2"}
    with pytest.raises(RunNotFound):
        await texts(alice, run="run-unknown")


async def test_what_is_wanted_is_chosen(house: Any, alice: Any) -> None:
    """By pattern, by age and by number, together, over what is collected and what is not."""
    await until(lambda: collected(house) == ["first"])
    for number in range(20):
        house.backend.emit(instance_id(house), f"line {number}")
    assert await texts(alice, grep=r"^line 1\d$", tail=3) == ["line 17", "line 18", "line 19"]
    assert await texts(alice, since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert len(await texts(alice, since=timedelta(hours=1))) == 21
    assert await texts(alice, tail=0) == []
    assert (await texts(alice, tail=1000))[:2] == ["first", "line 0"]


@pytest.mark.parametrize(
    "wrong",
    [{"grep": "("}, {"tail": -1}, {"since": datetime(2026, 1, 1)}],  # noqa: DTZ001 - that is what is wrong
)
async def test_a_wish_that_makes_no_sense_is_refused(alice: Any, wrong: dict[str, Any]) -> None:
    """Before anything is read."""
    with pytest.raises(InvalidInput):
        await texts(alice, **wrong)


async def test_an_agent_without_output_says_so(manager: RunnerManager, spec: AgentSpec) -> None:
    """There is nothing to read, and the error says when there will be."""
    runner = await manager.create_runner(spec)
    with pytest.raises(InstanceNotFound, match="no output yet"):
        await texts(runner)


async def test_no_known_secret_reaches_the_disk(house: Any, spec: AgentSpec) -> None:
    """Lines are redacted before they are written."""
    async with house.manager() as manager:
        await manager.put_secret("TOKEN", "a-planted-value")
        await manager.create_runner(spec.model_copy(update={"secrets": {"TOKEN": "vault:TOKEN"}}))
        await manager.start_runner("alice")
        house.backend.emit(instance_id(house), "it is a-planted-value")
        await until(lambda: bool(collected(house)))
    assert collected(house)[0] == "it is [redacted]"


async def test_f21_an_agent_that_prints_without_end_loses_lines_and_says_so(
    house: Any, manager: RunnerManager, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much is dropped, counted, and told of where it is missing; what comes later is there."""
    await until(lambda: collected(house) == ["first"])
    logs = manager._usable().logs
    monkeypatch.setattr(budget, "BURST_BYTES", 2000)
    monkeypatch.setattr(budget, "BYTES_PER_SECOND", 0)
    for number in range(100):
        house.backend.emit(instance_id(house), f"flood {number}")
    await until(lambda: logs.dropped > 0)
    monkeypatch.setattr(budget, "BURST_BYTES", 1 << 20)
    monkeypatch.setattr(budget, "BYTES_PER_SECOND", 1 << 30)
    await anyio.sleep(0.1)
    house.backend.emit(instance_id(house), "later")
    await until(lambda: "later" in collected(house))
    said = collected(house)
    kept = [text for text in said if text.startswith("flood")]
    assert kept == [f"flood {number}" for number in range(len(kept))]
    assert said[len(kept) + 1 :] == [f"{100 - len(kept)} lines were dropped here", "later"]
    assert logs.dropped == 100 - len(kept)


async def test_f21_where_nothing_can_be_written_agents_go_on(
    house: Any, manager: RunnerManager, alice: Any, ask: Ask
) -> None:
    """A folder that cannot be made costs lines, not turns; they are counted, and collecting goes on when it can."""
    await until(lambda: collected(house) == ["first"])
    folder = house.data_dir / "agents" / "alice" / "logs"
    folder.rename(folder.with_name("aside"))
    folder.write_text("in the way")
    logs = manager._usable().logs
    house.script([Say("works")])
    house.backend.emit(instance_id(house), "lost")
    await until(lambda: logs.dropped == 1)
    assert (await alice.run(ask())).output == "works"
    folder.unlink()
    folder.with_name("aside").rename(folder)
    house.backend.emit(instance_id(house), "kept")
    await until(lambda: "kept" in collected(house))
    assert collected(house) == ["first", "1 lines were dropped here", "kept"]


async def test_deleting_an_agent_with_its_files_leaves_no_log(manager: RunnerManager, house: Any, alice: Any) -> None:
    """Nobody makes its folder again."""
    await until(lambda: collected(house) == ["first"])
    await manager.delete_runner("alice", delete_workspace=True)
    await anyio.sleep(0.1)
    assert not (house.data_dir / "agents" / "alice").exists()


@pytest.fixture
def away(house: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An engine whose output cannot be read while the list has something in it."""
    reasons: list[str] = []
    backend, logs = house.backend, house.backend.logs

    async def interrupted(ref: Any, **options: Any) -> AsyncIterator[Any]:
        if reasons:
            raise EngineUnavailable(reasons[0])
        async for line in logs(ref, **options):
            yield line
            if reasons:
                raise EngineUnavailable(reasons[0])

    monkeypatch.setattr(backend, "logs", interrupted)
    monkeypatch.setattr(following, "FIRST_PAUSE", timedelta(milliseconds=20))
    monkeypatch.setattr(following, "LONGEST_PAUSE", timedelta(milliseconds=20))
    yield reasons
    reasons.clear()


async def test_f05_an_engine_that_goes_away_costs_no_line(house: Any, away: list[str], alice: Any) -> None:
    """The collector comes back and goes on behind the last line; meanwhile readers get what was collected, and are told why no more."""
    await until(lambda: collected(house) == ["first"])
    away.append("The engine is away.")
    house.backend.emit(instance_id(house), "second")
    await until(lambda: collected(house) == ["first", "second"])
    house.backend.emit(instance_id(house), "third")
    said = [line async for line in alice.logs(tail=5)]
    assert [line.text for line in said] == [
        "first",
        "second",
        "the engine cannot be asked for more: The engine is away.",
    ]
    assert said[-1].stream == OURS
    away.clear()
    await until(lambda: len(collected(house)) == 3)
    assert collected(house) == ["first", "second", "third"]
    assert await texts(alice) == ["first", "second", "third"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits for a follower's pause waits for ever."""
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "COMPLETE_LIMIT"):
        monkeypatch.setattr(following, name, timedelta(hours=1))


async def test_a_removal_does_not_wait_for_an_engine_that_is_away(
    house: Any, manager: RunnerManager, away: list[str], patient: None, alice: Any
) -> None:
    """A log is no reason to keep an instance: neither its follower's pause nor its last words are waited for."""
    await until(lambda: collected(house) == ["first"])
    away.append("The engine is away.")
    house.backend.emit(instance_id(house), "second")
    await until(lambda: manager._usable().logs.count == 0)
    house.backend.kill(instance_id(house))
    with anyio.fail_after(LIMIT_SECONDS):
        await manager.start_runner("alice")
    assert house.starts == ["alice", "alice"]


async def test_last_words_are_collected_although_the_follower_s_stream_breaks_just_then(
    house: Any, manager: RunnerManager, patient: None, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who removes the instance ends the follower's pause and reads the rest."""
    await until(lambda: collected(house) == ["first"])
    complete = manager._usable().logs.complete
    breaks = anyio.Event()
    logs = house.backend.logs

    async def breaking(ref: Any, *, is_following: bool = False, **options: Any) -> AsyncIterator[Any]:
        if is_following:
            await breaks.wait()
            raise EngineUnavailable("reset")
        async for line in logs(ref, is_following=is_following, **options):
            yield line

    async def complete_and_break(agent_id: str, ref: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete, agent_id, ref)
            await anyio.sleep(0.05)
            breaks.set()

    monkeypatch.setattr(manager._usable().logs, "complete", complete_and_break)
    monkeypatch.setattr(house.backend, "logs", breaking)
    for each in manager._usable().logs._following.values():
        each.scope.cancel()
    await until(lambda: not manager._usable().logs._following)
    (observed,) = await house.backend.list_instances(manager._usable().install.install_id)
    manager._usable().logs.follow("alice", observed.ref)
    await until(lambda: manager._usable().logs.count == 1)
    house.backend.emit(instance_id(house), "last words")
    house.backend.kill(instance_id(house))
    with anyio.fail_after(LIMIT_SECONDS):
        await manager.start_runner("alice")
    assert collected(house)[:3] == ["first", "last words", END]
