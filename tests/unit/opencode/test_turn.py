"""A turn on a server that behaves, and on servers that fail in every way we know of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import groupby

import anyio
import pytest

from cnap_runner.errors import ServerNotReady, ServerUnreachable, SessionNotFound
from cnap_runner.model.events import (
    FileEdited,
    MessageCompleted,
    ModelRetrying,
    PermissionRaised,
    ReasoningDelta,
    RunEvent,
    TextDelta,
    ToolFailed,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    UsageReported,
)
from cnap_runner.model.run import Outcome, Usage
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.feed import Backoff, SharedFeed
from cnap_runner.opencode.sessions import prepare, was_sent
from cnap_runner.opencode.turn import Turn, TurnEnd, TurnTiming
from cnap_runner.opencode.wire import Prompt
from cnap_runner.testing.fake_opencode import (
    Ask,
    Break,
    BrokenDatabaseOpenCode,
    Cut,
    DeafOpenCode,
    DropStreams,
    Edit,
    Fail,
    FailUnanswered,
    FakeOpenCode,
    GarblingOpenCode,
    Hold,
    LosesAnswerOpenCode,
    MuteStreams,
    Retry,
    Say,
    SilentOpenCode,
    Step,
    Think,
    UseTool,
)

PASSWORD = "pass-of-the-tests"

HASTY = TurnTiming(
    stall_timeout=timedelta(milliseconds=150),
    not_started_after=timedelta(milliseconds=300),
    settle_after=timedelta(milliseconds=150),
    unreadable_after=timedelta(milliseconds=150),
)
"""Waits that would be seconds in earnest."""

HASTILY = Backoff(timedelta(milliseconds=5), timedelta(milliseconds=20))


@dataclass
class Heard:
    """What a turn told, in order."""

    events: list[RunEvent] = field(default_factory=list)
    taken: int = 0

    async def emit(self, event: RunEvent) -> None:
        self.events.append(event)

    async def on_taken(self) -> None:
        self.taken += 1

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]


@dataclass
class Bench:
    """One session of one server, and what its turns told."""

    client: OpenCodeClient
    events: SharedFeed
    session_id: str
    heard: Heard = field(default_factory=Heard)
    timing: TurnTiming = HASTY

    async def turn(self) -> Turn:
        after = await prepare(self.client, self.session_id, timeout=timedelta(seconds=5))
        return self.turn_after(after)

    def turn_after(self, message_id: str | None) -> Turn:
        return Turn(
            self.client,
            self.events,
            session_id=self.session_id,
            after_message_id=message_id,
            emit=self.heard.emit,
            timing=self.timing,
        )

    async def run(self, text: str = "Hi") -> TurnEnd:
        turn = await self.turn()
        return await turn.send_and_follow(Prompt(texts=(text,)), on_taken=self.heard.on_taken)


@pytest.fixture
async def bench(server: FakeOpenCode) -> AsyncIterator[Bench]:
    async with bench_of(server) as bench:
        yield bench


@asynccontextmanager
async def bench_on(server: FakeOpenCode) -> AsyncIterator[Bench]:
    async with server, bench_of(server) as bench:
        yield bench


@asynccontextmanager
async def bench_of(server: FakeOpenCode) -> AsyncIterator[Bench]:
    async with OpenCodeClient(server.base_url, PASSWORD) as client:
        events = SharedFeed(client, silence=HASTY.stall_timeout, backoff=HASTILY)
        async with aclosing(events):
            yield Bench(client, events, server.add_session())


ONE_CALL = Usage(7, 3, 1, 2, 0, 0.5)


# --- a turn that goes well ----------------------------------------------------------------------------------------------


async def test_turn_tells_everything_in_order_and_ends_with_the_last_answer(server: FakeOpenCode, bench: Bench) -> None:
    """Text, reasoning, tools, files and usage are told as they happen; the result is the last answer, usage summed."""
    server.script(
        [
            Think("let me ", "see"),
            UseTool("bash", {"command": "ls"}, output="a b", progress=("a",)),
            UseTool("read", {"path": "x"}, error="no such file"),
            Edit("/workspace/a"),
            Say("It is ", "done."),
        ]
    )
    end = await bench.run()

    last_message_id = (await bench.client.messages(bench.session_id, limit=1))[-1].id
    assert end == TurnEnd(
        Outcome.SUCCEEDED,
        output="It is done.",
        usage=ONE_CALL + ONE_CALL + ONE_CALL,
        model="fake/demo",
        last_message_id=last_message_id,
    )
    assert bench.heard.taken == 1
    kinds = [(type(event), getattr(event, "output", getattr(event, "text", ""))) for event in bench.heard.events]
    assert kinds == [
        (ReasoningDelta, "let me "),
        (ReasoningDelta, "see"),
        (ToolStarted, ""),
        (ToolProgress, "a"),
        (ToolFinished, "a b"),
        (MessageCompleted, ""),
        (UsageReported, ""),
        (ToolStarted, ""),
        (ToolFailed, ""),
        (MessageCompleted, ""),
        (UsageReported, ""),
        (FileEdited, ""),
        (TextDelta, "It is "),
        (TextDelta, "done."),
        (MessageCompleted, "It is done."),
        (UsageReported, ""),
    ]
    assert bench.heard.events[-1] == UsageReported(end.usage)


async def test_ordinary_turn_needs_few_requests(server: FakeOpenCode, bench: Bench) -> None:
    """One stream, one prompt, one reading at the end, after the two requests of `prepare`: nothing is polled."""
    await bench.run()
    messages = f"GET /session/{bench.session_id}/message"
    prompt = f"POST /session/{bench.session_id}/prompt_async"
    assert server.requests == ["GET /session/status", messages, "GET /event", prompt, messages]


async def test_turns_of_a_session_do_not_mix(bench: Bench) -> None:
    """A second turn tells and returns only its own."""
    assert (await bench.run("one")).output == "ONE"
    bench.heard.events.clear()
    end = await bench.run("two")
    assert (end.output, end.usage, bench.heard.text) == ("TWO", ONE_CALL, "TWO")


async def test_long_turn_is_read_whole(server: FakeOpenCode, bench: Bench) -> None:
    """A turn of more messages than are read at once counts the usage of all of them."""
    server.script([*[UseTool()] * 40, Say("end")])
    end = await bench.run()
    assert (end.outcome, end.output, end.usage.input_tokens) == (Outcome.SUCCEEDED, "end", 41 * 7)


async def test_other_sessions_are_not_told(server: FakeOpenCode, bench: Bench) -> None:
    """The stream carries every session; what happens in another one is not this turn's."""
    server.script([Hold(), Say("mine")], [Say("other"), Ask("bash")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.run)
        await _prompts(server, 1)
        await bench.client.send_prompt(server.add_session(), Prompt(texts=("x",)))
        server.release()
    assert bench.heard.text == "mine"
    assert "permission" not in bench.heard.types


async def test_waiting_for_the_provider_and_permissions_are_told(server: FakeOpenCode, bench: Bench) -> None:
    """A retry of the model and a raised permission are events of the turn."""
    server.script([Retry(1, "slow down"), Retry(2, "slow down"), Ask("bash", ("rm *",)), Say("ok")])
    end = await bench.run()
    assert end.outcome is Outcome.SUCCEEDED
    assert bench.heard.events[:2] == [ModelRetrying(1, "slow down"), ModelRetrying(2, "slow down")]
    assert [event.patterns for event in bench.heard.events if isinstance(event, PermissionRaised)] == [("rm *",)]


async def test_prepare_waits_for_a_busy_session(server: FakeOpenCode, bench: Bench) -> None:
    """A prompt to a busy session would join its turn, so an idle one is waited for, and nothing is aborted."""
    server.script([Hold(), Say("first")])
    await bench.client.send_prompt(bench.session_id, Prompt(texts=("x",)))
    with pytest.raises(ServerNotReady, match="still busy"):
        await prepare(bench.client, bench.session_id, timeout=timedelta(milliseconds=100))
    server.release()
    last = await prepare(bench.client, bench.session_id, timeout=timedelta(seconds=5))
    assert last == (await bench.client.messages(bench.session_id))[-1].id


async def test_errors_of_the_listener_come_out_as_they_are(bench: Bench) -> None:
    """What `emit` raises is raised by the turn, not wrapped into a group."""

    async def refuse(_: RunEvent) -> None:
        raise LookupError("mine")

    turn = Turn(
        bench.client, bench.events, session_id=bench.session_id, after_message_id=None, emit=refuse, timing=HASTY
    )
    with pytest.raises(LookupError, match="mine"):
        await turn.send_and_follow(Prompt(texts=("Hi",)), on_taken=bench.heard.on_taken)


# --- a turn that fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "code", "is_retryable"),
    [
        (Fail("bad key", 401), "provider_auth", False),
        (Fail("no", 403), "provider_auth", False),
        (Fail("no such model", 404), "model_not_found", False),
        (Fail("slow down", 429, is_retryable=True), "rate_limited", True),
        (Fail("boom", 500, is_retryable=True), "provider_error", True),
        (Fail("bad request", 400), "provider_error", False),
        (Fail("too long", None, name="ContextOverflowError"), "context_overflow", False),
        (Fail("no login", None, name="ProviderAuthError"), "provider_auth", False),
        (Fail("odd", None, name="SomethingNewError"), "provider_error", False),
        (Cut("length"), "output_truncated", False),
        (Cut("content-filter"), "content_filtered", False),
    ],
)
async def test_failures_of_the_provider_fail_the_turn(
    server: FakeOpenCode, bench: Bench, step: Step, code: str, is_retryable: bool
) -> None:
    """Each has a code of its own, the provider's message and a truthful `retryable`; what was said so far is the output."""
    server.script([Say("so far"), step])
    end = await bench.run()
    assert end.error is not None
    assert (end.outcome, end.error.code, end.error.retryable) == (Outcome.FAILED, code, is_retryable)
    assert end.output == "so far"
    if isinstance(step, Fail):
        assert step.message in end.error.message


async def test_error_without_an_answer_is_told(server: FakeOpenCode, bench: Bench) -> None:
    """An unknown model ends the turn with an event alone; its text is the error."""
    server.script([FailUnanswered("Model not found: test/nope.")])
    end = await bench.run()
    assert end.error is not None
    assert (end.outcome, end.error.code) == (Outcome.FAILED, "model_not_found")
    assert "test/nope" in end.error.message


async def test_aborted_turn_says_so(server: FakeOpenCode, bench: Bench) -> None:
    """An abort ends the turn as aborted, with what was said, and the next turn works."""
    server.script([Say("half"), Hold()])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_abort_when_said, bench)
        end = await bench.run()
    assert (end.outcome, end.output, end.error and end.error.code) == (Outcome.ABORTED, "half", "aborted")
    assert (await bench.run("next")).output == "NEXT"


async def test_answers_that_all_break_off_end_the_turn(server: FakeOpenCode, bench: Bench) -> None:
    """OpenCode asks for ever for an answer that breaks off each time; after five the turn is given up."""
    server.script([*[Break()] * 5, Hold(), Say("never")])
    end = await bench.run()
    assert end.error is not None
    assert (end.outcome, end.error.code, end.error.retryable) == (Outcome.FAILED, "provider_error", True)
    assert f"POST /session/{bench.session_id}/abort" in server.requests


async def test_an_answer_that_breaks_off_now_and_then_does_not_end_the_turn(server: FakeOpenCode, bench: Bench) -> None:
    """Broken answers count only in a row, and tools end the row."""
    server.script([*[Break()] * 4, UseTool(), *[Break()] * 4, Say("made it")])
    assert (await bench.run()).output == "made it"


# --- streams that fail --------------------------------------------------------------------------------------------------


async def test_f15_dropped_stream_loses_and_repeats_nothing(server: FakeOpenCode, bench: Bench) -> None:
    """Streams that break in mid-turn, again and again, change nothing in what is told nor in the end."""
    server.script(
        [
            Say("a", "b"),
            DropStreams(),
            Say("c"),
            UseTool(output="x"),
            DropStreams(),
            Think("t"),
            DropStreams(),
            Say("d", "e"),
        ]
    )
    end = await bench.run()
    assert (end.outcome, end.output) == (Outcome.SUCCEEDED, "de")
    assert (bench.heard.text, bench.heard.reasoning) == ("abcde", "t")
    assert [kind for kind, _ in groupby(t for t in bench.heard.types if t.startswith("tool"))] == [
        "tool_started",
        "tool_finished",
    ]
    assert server.prompts == ["Hi"]


async def test_f15_stream_that_drops_at_the_end_is_no_success_by_itself(server: FakeOpenCode, bench: Bench) -> None:
    """A stream that breaks while the turn hangs ends nothing: the turn ends when the server says so."""
    server.script([Say("a"), DropStreams(), Hold(), Say("b")])
    async with anyio.create_task_group() as tasks:
        ended = asyncio.Event()
        tasks.start_soon(_release_after_reconnect, server, ended)
        end = await bench.run()
        assert ended.is_set()
    assert (end.outcome, bench.heard.text) == (Outcome.SUCCEEDED, "ab")


async def test_f14_mute_stream_does_not_hang_the_turn(server: FakeOpenCode, bench: Bench) -> None:
    """A stream that stays open and says nothing is backed by reading; all is told, once."""
    server.script([Say("a", "b"), MuteStreams(), UseTool(output="x"), Say("c")])
    end = await bench.run()
    assert (end.outcome, end.output, bench.heard.text) == (Outcome.SUCCEEDED, "c", "abc")


async def test_f14_stream_that_never_says_anything_is_no_hindrance() -> None:
    """With streams that are mute from the first moment, turns still end, with everything told."""
    async with bench_on(SilentOpenCode(PASSWORD)) as bench:
        end = await bench.run()
    assert (end.outcome, bench.heard.text, bench.heard.taken) == (Outcome.SUCCEEDED, "HI", 1)


async def test_f14_heartbeats_do_not_hide_a_mute_stream(server: FakeOpenCode, bench: Bench) -> None:
    """A stream that only beats is as good as mute: silence is counted from the last news of the session."""
    server.script([MuteStreams(), Say("a")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_beat, server)
        end = await bench.run()
        tasks.cancel_scope.cancel()
    assert (end.outcome, server.streams.opened) == (Outcome.SUCCEEDED, 1)


async def test_garbage_on_the_stream_is_got_over() -> None:
    """A stream that cannot be understood is opened anew, and nothing is lost by it."""
    async with bench_on(GarblingOpenCode(PASSWORD)) as bench:
        end = await bench.run()
    assert (end.outcome, bench.heard.text) == (Outcome.SUCCEEDED, "HI")


# --- prompts whose fate is not known ------------------------------------------------------------------------------------


async def test_f16_lost_answer_to_the_prompt_is_followed_not_sent_again() -> None:
    """A prompt whose answer is lost shows up in the session: it is taken, told of, and was sent once."""
    server = LosesAnswerOpenCode(PASSWORD)
    async with bench_on(server) as bench:
        end = await bench.run()
    assert (end.outcome, end.output, bench.heard.taken, server.prompts) == (Outcome.SUCCEEDED, "HI", 1, ["Hi"])


async def test_f16_prompt_that_never_shows_up_ends_as_not_started() -> None:
    """A prompt that got lost on its way is not sent again; at its deadline the turn ends, and nobody was told it was taken."""
    server = DeafOpenCode(PASSWORD)
    async with bench_on(server) as bench:
        end = await bench.run()
    assert end.error is not None
    assert (end.outcome, end.error.code, bench.heard.taken, len(server.prompts)) == (
        Outcome.FAILED,
        "not_started",
        0,
        1,
    )


async def test_server_that_is_not_there_raises_before_anything_is_sent(server: FakeOpenCode, bench: Bench) -> None:
    """Without a server the prompt certainly was not sent, and that is raised."""
    turn = await bench.turn()
    await server.kill()
    with pytest.raises(ServerUnreachable):
        await turn.send_and_follow(Prompt(texts=("Hi",)), on_taken=bench.heard.on_taken)
    assert (server.prompts, bench.heard.taken) == ([], 0)


async def test_refused_prompt_raises(server: FakeOpenCode, bench: Bench) -> None:
    """A session that is gone refuses the prompt, and that is raised."""
    turn = await bench.turn()
    server.forget_session(bench.session_id)
    with pytest.raises(SessionNotFound):
        await turn.send_and_follow(Prompt(texts=("Hi",)), on_taken=bench.heard.on_taken)
    assert bench.heard.taken == 0


# --- turns taken over ---------------------------------------------------------------------------------------------------


async def test_turn_sent_by_another_process_is_followed_to_its_end(server: FakeOpenCode, bench: Bench) -> None:
    """Following tells what happened before, then what happens, each once."""
    server.script([Say("a", "b"), Hold(), Say("c")])
    await bench.client.send_prompt(bench.session_id, Prompt(texts=("x",)))
    assert await was_sent(bench.client, bench.session_id, None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_release_when_said, server, bench, "ab")
        end = await bench.turn_after(None).follow()
    assert (end.outcome, bench.heard.text) == (Outcome.SUCCEEDED, "abc")


async def test_turn_that_ended_unwatched_is_read(server: FakeOpenCode, bench: Bench) -> None:
    """A turn that ended while nobody looked has its true result, with all of its events."""
    await bench.client.send_prompt(bench.session_id, Prompt(texts=("x",)))
    await prepare(bench.client, bench.session_id, timeout=timedelta(seconds=5))
    end = await bench.turn_after(None).follow()
    assert (end.outcome, end.output, bench.heard.types) == (Outcome.SUCCEEDED, "X", ["text_delta", "message", "usage"])


async def test_turn_may_be_followed_again_by_the_same_object(server: FakeOpenCode, bench: Bench) -> None:
    """A turn that was left and is followed again tells nothing twice."""
    server.script([Say("a"), Hold(), Say("b")])
    turn = await bench.turn()
    with anyio.move_on_after(0.1):
        await turn.send_and_follow(Prompt(texts=("Hi",)), on_taken=bench.heard.on_taken)
    await bench.client.abort(bench.session_id)
    end = await turn.follow()
    assert (end.outcome, bench.heard.text) == (Outcome.ABORTED, "a")


async def test_text_missed_between_two_followings_is_told_at_its_place(server: FakeOpenCode, bench: Bench) -> None:
    """Deltas that nobody heard are not skipped: the part waits for its whole text."""
    server.script([Hold()])
    session = server.sessions[bench.session_id]
    turn = await bench.turn()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(turn.send_and_follow, Prompt(texts=("Hi",)), on_taken=bench.heard.on_taken))
        await _prompts(server, 1)
        answer = session.add_answer(session.messages[0]["info"]["id"], {})
        part = session.add_part(answer, {"type": "text", "text": "", "time": {"start": 1}})
        session.publish_delta(part, "a")
        await _said(bench)
        tasks.cancel_scope.cancel()
    session.publish_delta(part, "b")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn.follow)
        while server.streams.opened < 2:
            await anyio.sleep(0.001)
        session.publish_delta(part, "c")
        part.update(text="abc", time={"start": 1, "end": 2})
        session.publish_part(part)
        session.complete(answer, "stop")
        server.release()
    assert bench.heard.text == "abc"


async def test_f12_turn_cut_off_by_the_death_of_its_server_is_interrupted(server: FakeOpenCode, bench: Bench) -> None:
    """After a kill and a restart the session is idle in mid-answer for ever; the turn is interrupted, with what was heard."""
    server.script([UseTool(), Say("half"), Hold()])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_restart_when_said, server, bench)
        end = await bench.run()
    assert (end.outcome, end.output, end.error and end.error.code) == (Outcome.FAILED, "half", "interrupted")


async def test_prompt_without_an_answer_ends_as_not_started(server: FakeOpenCode, bench: Bench) -> None:
    """A user message that nobody answers, in an idle session, is not waited for beyond the deadline."""
    server.sessions[bench.session_id].add_user_message(["x"], {})
    end = await bench.turn_after(None).follow()
    assert end.error is not None
    assert (end.outcome, end.error.code) == (Outcome.FAILED, "not_started")


async def test_session_that_is_gone_leaves_the_end_unknown(server: FakeOpenCode, bench: Bench) -> None:
    """A session lost in mid-turn ends the turn as unknown, never as a success."""
    server.script([Say("a"), Hold()])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_forget_when_said, server, bench)
        end = await bench.run()
    assert (end.outcome, end.error and end.error.code, end.output) == (Outcome.UNKNOWN, "unknown", "a")


async def test_messages_that_cannot_be_read_leave_the_end_unknown() -> None:
    """A server that answers and never gives the messages is not believed to have done anything."""
    async with bench_on(BrokenDatabaseOpenCode(PASSWORD)) as bench:
        end = await bench.turn_after(None).follow()
    assert (end.outcome, end.error and end.error.code) == (Outcome.UNKNOWN, "unknown")


async def test_was_sent_tells_whether_a_newer_user_message_is_there(bench: Bench) -> None:
    """The proof that a prompt arrived is the message itself."""
    assert not await was_sent(bench.client, bench.session_id, None)
    await bench.run()
    last = await prepare(bench.client, bench.session_id, timeout=timedelta(seconds=5))
    assert await was_sent(bench.client, bench.session_id, None)
    assert not await was_sent(bench.client, bench.session_id, last)


async def test_rejected_prompt_of_a_broken_server_is_not_repeated() -> None:
    """An error of the server while it takes the prompt leaves its fate open: it is watched for, not sent again."""
    server = BrokenDatabaseOpenCode(PASSWORD)
    async with bench_on(server) as bench:
        turn = bench.turn_after(None)
        end = await turn.send_and_follow(Prompt(texts=("Hi",)), on_taken=bench.heard.on_taken)
    assert (end.outcome, bench.heard.taken) == (Outcome.UNKNOWN, 0)
    assert server.requests.count(f"POST /session/{bench.session_id}/prompt_async") == 1


# --- helpers ------------------------------------------------------------------------------------------------------------


async def _prompts(server: FakeOpenCode, count: int) -> None:
    while len(server.prompts) < count:
        await anyio.sleep(0.001)


async def _said(bench: Bench, text: str | None = None) -> None:
    while not (bench.heard.text if text is None else text in bench.heard.text):
        await anyio.sleep(0.001)


async def _abort_when_said(bench: Bench) -> None:
    await _said(bench)
    await bench.client.abort(bench.session_id)


async def _forget_when_said(server: FakeOpenCode, bench: Bench) -> None:
    await _said(bench)
    server.forget_session(bench.session_id)
    await server.streams.drop()


async def _release_when_said(server: FakeOpenCode, bench: Bench, text: str) -> None:
    await _said(bench, text)
    server.release()


async def _restart_when_said(server: FakeOpenCode, bench: Bench) -> None:
    await _said(bench)
    await server.kill()
    await server.start()


async def _release_after_reconnect(server: FakeOpenCode, released: asyncio.Event) -> None:
    while server.streams.opened < 2:
        await anyio.sleep(0.001)
    released.set()
    server.release()


async def _beat(server: FakeOpenCode) -> None:
    while True:
        server.streams.heartbeat()
        await anyio.sleep(0.02)
