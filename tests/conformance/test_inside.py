"""What happens inside an instance: commands, output, secrets, use of the machine."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import Any, cast

import anyio
import pytest

from cnap_runner.model.instance import LogLine
from cnap_runner.testing.backend_harness import GRACE, LIMIT_SECONDS, PASSWORD, Harness, secrets

SECRET = "sk-not-to-be-seen"
MAX_OUTPUT_BYTES = 1 << 20


async def test_exec_gives_output_and_exit_code(harness: Harness) -> None:
    """A command's output and exit code are its own."""
    started = await harness.start()

    good = await harness.backend.exec(started.ref, ["echo", "hello", "there"], timeout=GRACE)
    bad = await harness.backend.exec(started.ref, ["false"], timeout=GRACE)
    missing = await harness.backend.exec(started.ref, ["no-such-program"], timeout=GRACE)

    assert (good.exit_code, good.output, good.is_truncated) == (0, b"hello there\n", False)
    assert (bad.exit_code, bad.output) == (1, b"")
    assert missing.exit_code in {126, 127}


async def test_exec_works_in_the_workspace(harness: Harness) -> None:
    """A command begins in the agent's project."""
    started = await harness.start()

    done = await harness.backend.exec(started.ref, ["pwd"], timeout=GRACE)

    assert done.output.decode().strip() == harness.backend.layout(started.spec).workspace


async def test_exec_keeps_one_mebibyte(harness: Harness) -> None:
    """Of more output the beginning is kept, and the command is not blocked by it."""
    started = await harness.start()

    done = await harness.backend.exec(started.ref, ["seq", "1", "300000"], timeout=timedelta(seconds=LIMIT_SECONDS))

    assert done.exit_code == 0
    assert done.is_truncated
    assert len(done.output) == MAX_OUTPUT_BYTES
    assert done.output.startswith(b"1\n2\n3\n")


async def test_exec_that_takes_too_long_is_left(harness: Harness) -> None:
    """The caller gets `TimeoutError`, and the instance goes on."""
    started = await harness.start()

    with pytest.raises(TimeoutError):
        await harness.backend.exec(started.ref, ["sleep", "60"], timeout=timedelta(seconds=0.3))

    assert (await harness.backend.inspect(started.ref)).is_live


async def test_secrets_arrive_inside_and_show_nowhere_else(harness: Harness) -> None:
    """Each file of the archive is readable where the layout says; no report and no output repeats it."""
    ref = await harness.create(spec := harness.spec())
    await harness.backend.start(ref, secrets=secrets(provider=SECRET))
    place = harness.backend.layout(spec).secrets

    async def read(name: str) -> bytes:
        return (await harness.backend.exec(ref, ["cat", f"{place}/{name}"], timeout=GRACE)).output

    with anyio.fail_after(LIMIT_SECONDS):
        while await read("provider") != SECRET.encode():
            await anyio.sleep(0.05)
    shown = repr(await harness.backend.inspect(ref)) + repr(await harness.lines(ref))

    assert await read("server-password") == PASSWORD.encode()
    assert SECRET not in shown
    assert PASSWORD not in shown


async def test_secrets_of_any_size_arrive_whole(harness: Harness) -> None:
    """An archive far larger than a pipe holds arrives to its last byte."""
    ref = await harness.create(spec := harness.spec())
    large = "x" * 1_000_000
    await harness.backend.start(ref, secrets=secrets(large=large, last="end"))
    place = harness.backend.layout(spec).secrets

    with anyio.fail_after(LIMIT_SECONDS):
        while (await harness.backend.exec(ref, ["cat", f"{place}/last"], timeout=GRACE)).output != b"end":
            await anyio.sleep(0.05)
    done = await harness.backend.exec(ref, ["cat", f"{place}/large"], timeout=GRACE)
    assert done.output.decode() == large


async def test_logs_are_in_order_and_have_a_tail(harness: Harness) -> None:
    """Output is told oldest first, by stream; a tail is its last lines."""
    started = await harness.start()
    said = [f"line {number}" for number in range(5)]
    for text in said:
        await harness.say(started, text)

    everything = await harness.lines(started.ref)
    tail = await harness.lines(started.ref, tail=2)

    assert [line.text for line in everything if line.text.startswith("line ")] == said
    assert [line.text for line in tail] == said[-2:]
    assert {line.stream for line in tail} == {"stdout"}


async def test_logs_tell_the_streams_apart(harness: Harness) -> None:
    """What went to standard error is marked so."""
    started = await harness.start()
    await harness.say(started, "trouble", stream="stderr")
    await harness.say(started, "ünïcode", stream="stdout")

    streams = {line.text: line.stream for line in await harness.lines(started.ref)}

    assert streams["trouble"] == "stderr"
    assert streams["ünïcode"] == "stdout"


async def test_logs_can_begin_at_a_moment(harness: Harness) -> None:
    """What was said before it is left out; who has read up to a line goes on from there."""
    started = await harness.start()
    await harness.say(started, "early")
    (early,) = [line for line in await harness.lines(started.ref) if line.text == "early"]
    assert early.at is not None
    await harness.say(started, "late")

    after = early.at + timedelta(microseconds=1)
    found = [line.text async for line in harness.backend.logs(started.ref, since=after)]

    assert "late" in found
    assert "early" not in found


async def test_following_tells_what_comes_and_ends_with_the_instance(harness: Harness) -> None:
    """A follower sees what was, then what comes, and is let go when the instance ends."""
    started = await harness.start()
    await harness.say(started, "before")
    seen: list[str] = []
    has_before = anyio.Event()

    async def follow() -> None:
        async for line in harness.backend.logs(started.ref, is_following=True):
            seen.append(line.text)
            if line.text == "before":
                has_before.set()

    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await has_before.wait()
            await harness.say(started, "after")
            await harness.leave(started, 0)

    assert seen[-2:] == ["before", "after"]


async def test_following_can_be_left(harness: Harness) -> None:
    """Who has seen enough leaves, and nothing hangs."""
    started = await harness.start()
    await harness.say(started, "enough")
    # An async generator, whose type the contract does not promise.
    following = cast("Any", harness.backend.logs(started.ref, is_following=True))

    with anyio.fail_after(LIMIT_SECONDS):
        async with aclosing(following) as lines:
            line: LogLine
            async for line in lines:
                if line.text == "enough":
                    break

    assert (await harness.backend.inspect(started.ref)).is_live


async def test_usage_is_measured(harness: Harness) -> None:
    """A live instance uses memory, time and at least one process."""
    started = await harness.start()

    used = await harness.backend.usage(started.ref)

    assert used.memory_bytes > 0
    assert used.cpu_seconds > 0
    assert used.pids >= 1
    if harness.backend.capabilities.limits_memory:
        assert used.memory_limit_bytes == started.spec.limits.memory_bytes
