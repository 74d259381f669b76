"""What a caller is told while a run goes on."""

from datetime import UTC, datetime, timedelta

from cnap_runner.errors import RunAborted, RunnerError
from cnap_runner.model.events import MessageCompleted, RunEnded, RunEvent, StatusChanged, TextDelta
from cnap_runner.model.run import Outcome, RunResult, RunState
from cnap_runner.runner.turns.callbacks import Audience, StatusCallback

RESULT = RunResult(
    run_id="r",
    agent_id="a",
    task_id="t",
    outcome=Outcome.SUCCEEDED,
    started_at=datetime.now(UTC),
    duration=timedelta(0),
)


class Diary(StatusCallback):
    def __init__(self) -> None:
        self.heard: list[object] = []

    async def on_status_change(self, task_id: str, status: RunState, /) -> None:
        self.heard.append(("status", task_id, status))

    async def on_event(self, task_id: str, event: RunEvent, /) -> None:
        self.heard.append(event.type)

    async def on_message(self, task_id: str, text: str, /) -> None:
        self.heard.append(("message", text))

    async def on_complete(self, task_id: str, result: RunResult, /) -> None:
        self.heard.append(("complete", result.outcome))

    async def on_error(self, task_id: str, error: RunnerError, /) -> None:
        self.heard.append(("error", error.code))


async def test_each_event_is_told_once_and_in_order() -> None:
    """Fragments are events only; states, whole messages and the end have calls of their own."""
    diary = Diary()
    audience = Audience("t", diary)
    for event in (
        StatusChanged(RunState.RUNNING),
        TextDelta("a", "m", "p"),
        MessageCompleted("ab", "m"),
        RunEnded(RESULT),
    ):
        await audience.tell(event)
    assert diary.heard == [
        "status", ("status", "t", "running"), "text_delta", "message", ("message", "ab"), "ended", ("complete", "succeeded"),
    ]  # fmt: skip


async def test_a_refusal_is_told_as_an_error() -> None:
    """A run without a result ends with on_error, and with nothing else."""
    diary = Diary()
    await Audience("t", diary).refuse(RunAborted("no"))
    assert diary.heard == [("error", "aborted")]


async def test_a_callback_that_raises_does_not_break_the_run() -> None:
    """The next event is told all the same."""

    class Broken(Diary):
        async def on_event(self, task_id: str, event: RunEvent, /) -> None:
            raise RuntimeError("a bug of the caller's")

    broken = Broken()
    await Audience("t", broken).tell(RunEnded(RESULT))
    assert broken.heard == [("complete", "succeeded")]


async def test_a_callback_may_override_nothing() -> None:
    """The protocol's own methods do nothing."""

    class Silent(StatusCallback):
        pass

    await Audience("t", Silent()).tell(RunEnded(RESULT))
