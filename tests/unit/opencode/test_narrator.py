"""What is told of a turn, whatever happens to the stream: each thing once, in order, nothing left out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.model.events import PermissionRaised, RunEvent, TextDelta, ToolFinished, ToolProgress, ToolStarted
from cnap_runner.opencode.events import ServerEvent, parse_event
from cnap_runner.opencode.narrator import Narrator
from cnap_runner.opencode.wire import Part, SessionMessage, parse_message
from cnap_runner.testing.fake_opencode.sessions import FakeSession


@dataclass
class Recording:
    """Every event of a turn, and what a reading by request would have given after each."""

    session: FakeSession
    events: list[ServerEvent] = field(default_factory=list)
    readings: list[list[SessionMessage]] = field(default_factory=list)

    def publish(self, kind: str, properties: dict[str, Any]) -> None:
        self.events.append(parse_event(json.dumps({"type": kind, "properties": properties})))
        self.readings.append([parse_message(message) for message in json.loads(json.dumps(self.session.messages))])


def record(answers: list[list[tuple[str, list[str]]]]) -> Recording:
    """Play answers made of parts, each a kind and its pieces."""
    session = FakeSession("ses_1", lambda *_: None)
    recording = Recording(session)
    session.publish = recording.publish
    session.add_user_message(["Hi"], {})
    for number, parts in enumerate(answers):
        message = session.add_answer("msg_0", {"providerID": "p", "modelID": "m"})
        for kind, pieces in parts:
            if kind == "tool":
                _play_tool(session, message, pieces)
                continue
            part = session.add_part(message, {"type": kind, "text": "", "time": {"start": 1}})
            for piece in pieces:
                session.publish_delta(part, piece)
            part["text"], part["time"] = "".join(pieces), {"start": 1, "end": 2}
            session.publish_part(part)
        session.complete(message, "stop" if number == len(answers) - 1 else "tool-calls")
    session.set_status({"type": "idle"})
    return recording


def _play_tool(session: FakeSession, message: dict[str, Any], pieces: list[str]) -> None:
    part = session.add_part(
        message,
        {
            "type": "tool",
            "tool": "bash",
            "callID": f"call_{len(message['parts'])}_{message['info']['id']}",
            "state": {"status": "pending"},
        },
    )
    said = ""
    for piece in ["", *pieces]:
        said += piece
        part["state"] = {"status": "running", "input": {}, "metadata": {"output": said}}
        session.publish_part(part)
    part["state"] = {"status": "completed", "input": {}, "output": said, "title": "t"}
    session.publish_part(part)


def essence(events: list[RunEvent]) -> dict[str, Any]:
    """What must be the same however it was heard: texts as a whole, everything else once."""
    texts: dict[str, str] = {}
    for event in events:
        if event.type in {"text_delta", "reasoning_delta"}:
            key = f"{event.type} {event.part_id}"
            texts[key] = texts.get(key, "") + event.text
    loose = {"text_delta", "reasoning_delta", "tool_progress", "usage"}
    # A tool that was first heard of at its end has its title from the start.
    once = [
        repr(replace(event, title=None) if isinstance(event, ToolStarted) else event)
        for event in events
        if event.type not in loose
    ]
    usage = [event for event in events if event.type == "usage"]
    return {"texts": texts, "once": sorted(once), "usage": usage[-1:]}


async def hear(recording: Recording, gaps: list[tuple[int, int]], readings: list[int]) -> list[RunEvent]:
    """Hear a recording with gaps in the stream, read it after each gap, now and then between, and at the end."""
    told: list[RunEvent] = []

    async def emit(event: RunEvent) -> None:
        told.append(event)

    narrator = Narrator(emit, session_id="ses_1", after_message_id=None)
    count = len(recording.events)
    lengths = {start % count: length for start, length in gaps}
    read_at = {at % count for at in readings}
    position = 0
    while position < count:
        gap = lengths.get(position, 0)
        if gap:
            narrator.stream_broke()
            position = min(position + gap, count)
            await narrator.read(recording.readings[position - 1])
            continue
        await narrator.hear(recording.events[position])
        if position in read_at:
            # A reading is later than what the stream told so far: events between the two are still to be heard.
            await narrator.read(recording.readings[min(position + 3, count - 1)])
        position += 1
    await narrator.read(recording.readings[-1], is_over=True)
    return told


_piece = st.text("abcdef \n", min_size=1, max_size=3)
_part = st.tuples(st.sampled_from(["text", "text", "reasoning", "tool"]), st.lists(_piece, min_size=1, max_size=6))
_answers = st.lists(st.lists(_part, max_size=3), min_size=1, max_size=3)
_position = st.integers(0, 1000)
_gaps = st.lists(st.tuples(_position, st.integers(1, 6)), min_size=1, max_size=4)


@given(answers=_answers, gaps=_gaps, readings=st.lists(_position, max_size=3))
async def test_f15_any_cut_of_the_stream_tells_the_same_once(
    answers: list[list[tuple[str, list[str]]]], gaps: list[tuple[int, int]], readings: list[int]
) -> None:
    """Wherever the stream breaks, for however long, and whenever it is read in between: the same texts, tools and usage, once."""
    recording = record(answers)
    whole = await hear(recording, [], [])
    assert essence(await hear(recording, gaps, readings)) == essence(whole)


@given(answers=_answers)
async def test_unbroken_stream_is_told_piece_by_piece(answers: list[list[tuple[str, list[str]]]]) -> None:
    """Without a break each delta is told as it comes, and reading at the end adds nothing."""
    told = await hear(record(answers), [], [])
    pieces = [piece for parts in answers for kind, pieces in parts if kind == "text" for piece in pieces]
    assert [event.text for event in told if isinstance(event, TextDelta)] == pieces
    tools = [pieces for parts in answers for kind, pieces in parts if kind == "tool"]
    assert sum(isinstance(event, ToolStarted) for event in told) == len(tools)
    assert sum(isinstance(event, ToolProgress) for event in told) == sum(len(pieces) for pieces in tools)
    assert [event.output for event in told if isinstance(event, ToolFinished)] == ["".join(pieces) for pieces in tools]


class Teller:
    """A narrator and what it told."""

    def __init__(self, after: str | None = None) -> None:
        self.told: list[RunEvent] = []
        self.narrator = Narrator(self._emit, session_id="ses_1", after_message_id=after)

    async def _emit(self, event: RunEvent) -> None:
        self.told.append(event)

    async def hear(self, kind: str, **properties: Any) -> None:
        await self.narrator.hear(parse_event(json.dumps({"type": kind, "properties": properties})))


def _text_part(text: str, *, ended: bool = True, message: str = "msg_2", **more: Any) -> dict[str, Any]:
    time = {"start": 1, "end": 2} if ended else {"start": 1}
    return {"id": "prt_1", "messageID": message, "type": "text", "text": text, "time": time, **more}


async def test_messages_before_the_turn_are_not_told() -> None:
    """Late news of an earlier turn's messages do not belong to this one."""
    teller = Teller(after="msg_5")
    await teller.hear("message.updated", sessionID="ses_1", info={"id": "msg_2", "role": "assistant"})
    await teller.hear("message.part.updated", sessionID="ses_1", part=_text_part("old"))
    assert teller.told == []


async def test_the_users_own_words_are_not_told() -> None:
    """Parts of the user message are no text of the assistant."""
    teller = Teller()
    await teller.hear("message.updated", sessionID="ses_1", info={"id": "msg_2", "role": "user"})
    await teller.hear("message.part.updated", sessionID="ses_1", part=_text_part("mine"))
    assert teller.told == []


async def test_what_opencode_wrote_itself_is_not_told() -> None:
    """Synthetic parts are for the model alone."""
    teller = Teller()
    message = SessionMessage(
        "msg_2", "assistant", parts=(Part("prt_1", "msg_2", "text", "psst", is_hidden=True, is_ended=True),)
    )
    await teller.narrator.read([message], is_over=True)
    assert (teller.told, teller.narrator.heard) == ([], "")


async def test_text_rewritten_at_its_end_is_not_told_again() -> None:
    """What was told cannot be taken back; the message as a whole carries the final text."""
    teller = Teller()
    await teller.hear("message.updated", sessionID="ses_1", info={"id": "msg_2", "role": "assistant"})
    await teller.hear("message.part.updated", sessionID="ses_1", part=_text_part("", ended=False))
    delta = {"messageID": "msg_2", "partID": "prt_1", "field": "text", "delta": "hello "}
    await teller.hear("message.part.delta", sessionID="ses_1", **delta)
    await teller.hear("message.part.updated", sessionID="ses_1", part=_text_part("hello"))
    assert [event.text for event in teller.told if isinstance(event, TextDelta)] == ["hello "]


async def test_text_under_way_is_left_to_the_stream() -> None:
    """What a reading holds of an unfinished part says nothing about where the stream stands; it is told at the part's end."""
    teller = Teller()
    await teller.narrator.read([SessionMessage("msg_2", "assistant", parts=(Part("prt_1", "msg_2", "text", "hel"),))])
    delta = {"messageID": "msg_2", "partID": "prt_1", "field": "text", "delta": "l"}
    await teller.hear("message.part.delta", sessionID="ses_1", **delta)
    assert teller.told == []
    await teller.hear("message.part.updated", sessionID="ses_1", part=_text_part("hello"))
    assert [event.text for event in teller.told if isinstance(event, TextDelta)] == ["hello"]


async def test_permissions_of_subagents_are_told_once() -> None:
    """A subagent has a session of its own; what it waits for holds up this turn all the same."""
    teller = Teller()
    asked = {"id": "per_1", "permission": "bash", "patterns": ["rm"]}
    await teller.hear("permission.asked", sessionID="ses_2", **asked)
    await teller.hear("session.created", sessionID="ses_2", info={"id": "ses_2", "parentID": "ses_1"})
    await teller.hear("permission.asked", sessionID="ses_2", **asked)
    await teller.hear("permission.asked", sessionID="ses_2", **asked)
    assert teller.told == [PermissionRaised("per_1", "bash", ("rm",))]
