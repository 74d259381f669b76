"""No event carries a secret out."""

from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.model.events import (
    FileEdited,
    MessageCompleted,
    PermissionRaised,
    QuestionRaised,
    RunEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from cnap_runner.runner.secrecy.events import RedactedEvents
from cnap_runner.telemetry.redaction import Redactor

SECRET = "correct-horse-battery"


async def told(*events: RunEvent) -> list[RunEvent]:
    heard: list[RunEvent] = []

    async def hear(event: RunEvent) -> None:
        heard.append(event)

    censor = RedactedEvents(Redactor([SECRET]), hear)
    for event in events:
        await censor.tell(event)
    return heard


@given(st.integers(0, 30), st.integers(0, 30))
async def test_a_secret_parted_by_deltas_is_found(first: int, second: int) -> None:
    """However the pieces part it, the text that is told has the secret replaced, and nothing else is lost."""
    text = f"key {SECRET} end"
    a, b = sorted((min(first, len(text)), min(second, len(text))))
    pieces = [TextDelta(piece, "m", "p") for piece in (text[:a], text[a:b], text[b:])]
    heard = await told(*pieces, MessageCompleted(text, "m"))
    streamed = "".join(event.text for event in heard if isinstance(event, TextDelta))
    assert streamed == "key [redacted] end"
    assert heard[-1] == MessageCompleted("key [redacted] end", "m")


async def test_tools_say_no_secret() -> None:
    """Neither in what goes in nor in what comes out."""
    heard = await told(
        ToolStarted("bash", "c", {"command": f"curl -H {SECRET}"}, title=SECRET),
        ToolFinished("bash", "c", f"got {SECRET}"),
    )
    assert SECRET not in str([asdict(event) for event in heard])


async def test_what_the_agent_asks_and_edits_says_no_secret() -> None:
    """A command that waits for its permission, a question with its options, a file's name."""
    heard = await told(
        PermissionRaised("r", "bash", (f"curl -H {SECRET}",)),
        QuestionRaised("r", ({"question": "Which?", "options": [{"label": SECRET}]},)),
        FileEdited(f"/workspace/{SECRET}"),
    )
    assert len(heard) == 3
    assert SECRET not in str([asdict(event) for event in heard])


async def test_text_without_secrets_comes_through_at_once() -> None:
    """A delta is not held back for nothing."""
    delta = TextDelta("hello", "m", "p")
    assert await told(delta) == [delta]
