"""What a turn asks, and who replies: the agent's rules, somebody, or nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec, Outcome, Runner, RunnerManager, RunRequest, StatusCallback
from cnap_runner.backends.docker.options import LAYOUT
from cnap_runner.errors import AnswerNotPending, InvalidInput
from cnap_runner.model.answers import AnswerKind, PendingAnswer
from cnap_runner.model.events import PermissionRaised, QuestionRaised, RequestAnswered, RunEvent
from cnap_runner.model.journal import DecisionKind
from cnap_runner.model.run import RunRecord
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.wire import Prompt
from cnap_runner.runner.answers.answering import LONGEST_TEXT, MOST_ITEMS, _shortened
from cnap_runner.runner.answers.replying import REJECTED_BY_NOBODY, REJECTED_BY_RULE
from cnap_runner.runner.install import Install
from cnap_runner.store.base import NewRun
from cnap_runner.testing.fake_opencode import Ask, AskQuestion, DropStreams, MuteStreams, Say

AskFor = Callable[..., RunRequest]
PUSH = Ask("bash", ("git push origin",), is_waiting=True)


class Heard(StatusCallback):
    """Hears what a run raises, and may reply from within."""

    def __init__(self, reply: Callable[[PermissionRaised | QuestionRaised], Any] | None = None) -> None:
        self.raised: list[PermissionRaised | QuestionRaised] = []
        self.answered: list[RequestAnswered] = []
        self._reply = reply

    async def on_event(self, task_id: str, event: RunEvent, /) -> None:
        if isinstance(event, PermissionRaised | QuestionRaised):
            self.raised.append(event)
            if self._reply is not None:
                await self._reply(event)
        elif isinstance(event, RequestAnswered):
            self.answered.append(event)


def with_answers(spec: AgentSpec, **answers: Any) -> AgentSpec:
    return AgentSpec.parse({**spec.model_dump(exclude_unset=True), "answers": answers})


async def waiting(runner: Runner, count: int = 1) -> list[PendingAnswer]:
    with anyio.fail_after(10):
        while len(found := await runner.pending_answers()) < count:
            await anyio.sleep(0.01)
    return found


@asynccontextmanager
async def running(
    runner: Runner, request: RunRequest, callback: StatusCallback | None = None
) -> AsyncIterator[list[Any]]:
    """A run beside the test; its result is in the list once the block is left."""
    results: list[Any] = []

    async def run() -> None:
        results.append(await runner.run(request, callback))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield results


async def replies_of(house: Any) -> list[dict[str, Any]]:
    return list(house.servers["alice"].waits.replies.values())


async def reasons(manager: RunnerManager) -> list[str]:
    decisions = await manager._usable().install.store.list_decisions("alice")
    return [decision.reason for decision in decisions if decision.kind is DecisionKind.ANSWERED]


@pytest.mark.parametrize(
    ("answers", "step", "reply"),
    [
        ({"permissions": {"bash": "allow"}}, PUSH, {"reply": "once"}),
        ({"permissions": {"*": "reject"}}, PUSH, {"reply": "reject", "message": REJECTED_BY_RULE}),
        ({"questions": "The first."}, AskQuestion("Which?", "And?"), {"answers": [["The first."], ["The first."]]}),
        ({}, AskQuestion("Which?"), {"rejected": True}),
    ],
)
async def test_f13_what_the_rules_reply_to_waits_for_nobody(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor, *, answers: Any, step: Any, reply: dict[str, Any]
) -> None:
    """It is replied to at once, told as an event without a deadline, and written into the decision log."""
    house.script([step, Say("done")])
    heard = Heard()
    result = await (await manager.create_runner(with_answers(spec, **answers))).run(ask(), heard)
    assert (result.output, await replies_of(house)) == ("done", [reply])
    assert [event.deadline for event in heard.raised] == [None]
    (reason,) = await reasons(manager)
    assert "by its rules" in reason


async def test_f13_what_the_configuration_allows_is_not_asked_for_a_rule_whose_order_opencode_cannot_keep(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """OpenCode is told to ask of everything then; the template, which allows it, goes on to count."""
    runner = await manager.create_runner(with_answers(spec, permissions={"bash": "allow", "*:*secret*": "reject"}))
    house.script([Ask("read", ("a.py",), is_waiting=True), Ask("read", ("secret",), is_waiting=True), Say("read")])
    result = await runner.run(ask())
    rejected = {"reply": "reject", "message": REJECTED_BY_RULE}
    assert (result.output, await replies_of(house)) == ("read", [{"reply": "once"}, rejected])


async def test_a_rule_for_the_agents_home_means_its_home_in_the_container(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """OpenCode asks with the whole path, whatever the rule is written with."""
    rules = {"edit": "allow", "edit:~/private/*": "reject"}
    runner = await manager.create_runner(with_answers(spec, permissions=rules))
    house.script([Ask("edit", (f"{LAYOUT.home}/private/key",), is_waiting=True), Say("done")])
    await runner.run(ask())
    assert await replies_of(house) == [{"reply": "reject", "message": REJECTED_BY_RULE}]


async def test_somebody_who_is_asked_replies_from_the_callback(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """The event carries the deadline, the request can be answered the moment it is told, and the answer is told too."""
    runner = await manager.create_runner(with_answers(spec, permissions={"bash": "ask"}))
    heard = Heard(lambda raised: runner.answer(raised.request_id, "allow"))
    house.script([PUSH, Say("pushed")])
    result = await runner.run(ask(), heard)
    assert (result.output, await replies_of(house)) == ("pushed", [{"reply": "once"}])
    assert heard.raised[0].deadline is not None
    assert [event.reply for event in heard.answered] == ["allow"]
    assert await runner.pending_answers() == []


async def test_what_waits_is_visible_and_can_be_answered_by_another_process(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """A second manager sees the question, and its answer reaches the turn that the first one drives."""
    runner = await manager.create_runner(with_answers(spec, questions="ask", deadline="1h"))
    house.script([AskQuestion("Which color?"), Say("painted")])
    async with house.manager(is_observer=True) as other:
        async with running(runner, ask()) as results:
            (pending,) = await waiting(runner)
            assert (pending.text, pending.agent_id) == ("Which color?", "alice")
            assert await other.pending_answers() == [pending]
            elsewhere = await other.get_runner("alice")
            with pytest.raises(InvalidInput, match="1 questions were asked"):
                await elsewhere.answer(pending.request_id, ["red", "blue"])
            await elsewhere.answer(pending.request_id, [["red", "blue"]])
        with pytest.raises(AnswerNotPending):
            await elsewhere.answer(pending.request_id, "green")
    assert results[0].output == "painted"
    assert await replies_of(house) == [{"answers": [["red", "blue"]]}]
    assert await reasons(manager) == ["its question (Which color?) was answered by somebody who was asked"]


async def test_a_wrong_reply_changes_nothing(house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor) -> None:
    """Neither a word that is none, nor an id nobody gave, nor that of another agent's request."""
    runner = await manager.create_runner(with_answers(spec, permissions={"bash": "ask"}))
    bob = await manager.create_runner(AgentSpec(agent_id="bob", model="fake/demo"))
    house.script([PUSH, Say("pushed")])
    async with running(runner, ask()) as results:
        (pending,) = await waiting(runner)
        with pytest.raises(InvalidInput):
            await runner.answer(pending.request_id, "yes")
        for somebody, request_id in ((runner, "per_x"), (bob, pending.request_id)):
            with pytest.raises(AnswerNotPending):
                await somebody.answer(request_id, "allow")
        await runner.answer(pending.request_id, "reject", message="Not on a Friday.")
    assert results[0].success
    assert await replies_of(house) == [{"reply": "reject", "message": "Not on a Friday."}]


@pytest.mark.parametrize(
    ("answers", "step", "reply"),
    [
        ({"permissions": {"bash": "ask"}}, PUSH, {"reply": "reject", "message": REJECTED_BY_NOBODY}),
        ({"permissions": {"bash": "ask"}, "fallback": "allow"}, PUSH, {"reply": "once"}),
        ({"questions": "ask", "fallback": "allow"}, AskQuestion("Which?"), {"rejected": True}),
    ],
)
async def test_f13_what_nobody_answers_gets_the_fallback_at_its_deadline(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor, *, answers: Any, step: Any, reply: dict[str, Any]
) -> None:
    """The turn goes on then, and the log says that nobody answered."""
    runner = await manager.create_runner(with_answers(spec, deadline="100ms", **answers))
    house.script([step, Say("done")])
    result = await runner.run(ask())
    assert (result.output, await replies_of(house)) == ("done", [reply])
    assert await runner.pending_answers() == []
    (reason,) = await reasons(manager)
    assert "because nobody answered in time" in reason


async def test_a_wait_does_not_stop_the_clock_of_the_run(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """Its time limit goes on, and nothing waits for a run that is over."""
    runner = await manager.create_runner(with_answers(spec, permissions={"bash": "ask"}))
    house.script([PUSH, Say("never")])
    result = await runner.run(ask(timeout="500ms"))
    assert result.outcome is Outcome.TIMED_OUT
    assert await runner.pending_answers() == []


async def test_an_aborted_wait_is_over_and_does_not_come_back(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """OpenCode lists it for ever; the next turn does not take it for its own, not even when it reads by request what it waits for."""
    runner = await manager.create_runner(with_answers(spec, permissions={"bash": "ask"}))
    house.script([PUSH, Say("never")], [DropStreams(), PUSH, MuteStreams(), Say("second")])
    async with running(runner, ask("one")) as results:
        (pending,) = await waiting(runner)
        await runner.abort()
    assert results[0].outcome is Outcome.ABORTED
    with pytest.raises(AnswerNotPending):
        await runner.answer(pending.request_id, "allow")
    heard = Heard()
    async with running(runner, ask("two"), heard) as results:
        (second,) = await waiting(runner)
        assert second.request_id != pending.request_id
        await runner.answer(second.request_id, "allow")
    assert results[0].output == "second"
    assert [event.request_id for event in heard.raised] == [second.request_id]


async def test_f14_a_request_that_the_stream_did_not_tell_is_found(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """A mute stream hides it; reading the session finds it."""
    runner = await manager.create_runner(with_answers(spec, permissions={"bash": "allow"}))
    house.script([MuteStreams(), PUSH, Say("found")])
    with anyio.fail_after(20):
        result = await runner.run(ask())
    assert (result.output, await replies_of(house)) == ("found", [{"reply": "once"}])


async def test_whoever_takes_a_turn_over_keeps_its_deadline(house: Any, spec: AgentSpec) -> None:
    """A manager died while its agent waited: the next one applies the deadline that was set, and settles the run."""
    house.script([PUSH, Say("went on")])
    async with house.manager(on_shutdown="leave") as first:
        await first.create_runner(with_answers(spec, permissions={"bash": "ask"}, deadline="1h"))
        run, request_id = await left_by_a_dead_manager(house, first)
        store = first._usable().install.store
        now = datetime.now(UTC)
        asked = {"permission": "bash", "patterns": ["git push origin"]}
        stored = PendingAnswer(
            request_id, "alice", run.run_id, run.instance_id or "", AnswerKind.PERMISSION, asked, now, now
        )
        await store.add_pending(stored)
    with anyio.fail_after(20):
        async with house.manager() as second:
            result = await second.wait_run(run.run_id)
            assert await second.pending_answers() == []
    assert (result.outcome, result.output) == (Outcome.SUCCEEDED, "went on")
    assert await replies_of(house) == [{"reply": "reject", "message": REJECTED_BY_NOBODY}]


async def left_by_a_dead_manager(house: Any, manager: RunnerManager) -> tuple[RunRecord, str]:
    """A run whose prompt was sent by a manager that is dead, and the permission it waits for."""
    live = await manager.start_runner("alice")
    store, at, server = manager._usable().install.store, datetime.now(UTC), house.servers["alice"]
    session = server.add_session()
    await store.set_session("alice", "main", session)
    new = NewRun("run-of-the-dead", "alice", "main", "m-dead", "f", None, None, at)
    run = (await store.enter_run(new, must_be_alone=False)).run
    assert await store.claim_turn(run, at=at, is_alive=lambda _: True)
    run = await store.get_run(run.run_id)
    sent_to = live.record.instance_id or ""
    sending = await store.mark_sending(run, session_id=session, instance_id=sent_to, after_message_id=None, at=at)
    assert isinstance(sending, RunRecord)
    async with OpenCodeClient(server.base_url, password_of(house, sent_to)) as client:
        await client.send_prompt(session, Prompt(texts=("x",)))
        with anyio.fail_after(10):
            while not (waits := await client.waits()):
                await anyio.sleep(0.01)
    return sending, waits[0].request_id


def password_of(house: Any, instance_id: str) -> str:
    key = (house.data_dir / "install.key").read_bytes()
    return Install.password_of(type("Key", (), {"key": key})(), instance_id)


async def test_what_is_kept_of_a_question_is_bounded_and_readable(
    house: Any, manager: RunnerManager, spec: AgentSpec, ask: AskFor
) -> None:
    """An agent chooses what it asks: neither megabytes nor thousands of items end up in the store, nor half characters, which it cannot hold."""
    runner = await manager.create_runner(with_answers(spec, permissions={"*": "ask"}))
    patterns = ("x" * 100_000, *(str(number) for number in range(1000)))
    house.script([Ask("bash", patterns, is_waiting=True), Say("done")])
    async with running(runner, ask()) as results:
        (pending,) = await waiting(runner)
        assert (len(pending.asked["patterns"]), len(pending.asked["patterns"][0])) == (MOST_ITEMS, LONGEST_TEXT)
        await runner.answer(pending.request_id, "allow")
    assert results[0].success
    assert len(await reasons(manager)) == 1
    assert _shortened({"\ud800": ["\udfff!", 7]}) == {"?": ["?!", 7]}
