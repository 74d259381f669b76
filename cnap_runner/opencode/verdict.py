"""How a turn ended, told from the server's own messages. Pure: reads nothing, waits for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from cnap_runner.model.run import Outcome, RunError, Usage
from cnap_runner.opencode.wire import ProviderFailure, SessionMessage

GOES_ON = frozenset({"tool-calls", "unknown"})
"""Answers that end like this are followed by another one of the same turn; ``unknown`` is a stream that broke off."""

_CODES = MappingProxyType(
    {
        "ProviderAuthError": "provider_auth",
        "ContextOverflowError": "context_overflow",
        "MessageOutputLengthError": "output_truncated",
        "ContentFilterError": "content_filtered",
    }
)
_STATUS_CODES = MappingProxyType(
    {401: "provider_auth", 403: "provider_auth", 404: "model_not_found", 429: "rate_limited"}
)


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How one turn ended."""

    outcome: Outcome
    output: str = ""
    """The final assistant text; what there was of it where the turn did not succeed."""
    error: RunError | None = None
    usage: Usage = field(default_factory=Usage)
    """Summed over the turn's model calls, those of its subagents excepted."""
    model: str | None = None
    last_message_id: str | None = None
    """Of the session, when the end was read; None: it was not."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known about a turn at one moment, its messages aside."""

    is_busy: bool
    """Whether the server says that the session is at work."""
    is_settled: bool = False
    """Whether it has been idle without any change for long enough that nothing more will come."""
    is_overdue: bool = False
    """Whether the deadline by which the turn had to begin is over."""
    failure: ProviderFailure | None = None
    """The first error that the stream told; some are in no message."""


def is_later(message_id: str, after_message_id: str | None) -> bool:
    """Whether a message came after another one. The server gives ids that ascend, and relies on that itself."""
    return after_message_id is None or message_id > after_message_id


def ends_turn(message: SessionMessage) -> bool:
    """Whether nothing of the turn that a message belongs to comes after it."""
    return message.role == "assistant" and _judge_last(message) is not _UNDECIDED


def turn_messages(messages: Sequence[SessionMessage], after_message_id: str | None) -> list[SessionMessage]:
    """Select the messages of the turn that follows a message: all later ones, for nobody else writes to the session.

    They are more than one question and its answers: OpenCode adds messages of its own when it shortens a long session.
    """
    return [message for message in messages if is_later(message.id, after_message_id)]


def judge(messages: Sequence[SessionMessage], standing: Standing) -> TurnEnd | None:
    """Tell how the turn made up of these messages ended; None: it goes on, or that cannot be told yet.

    Only a complete answer that the model ended by itself is a success. A turn that stopped in mid-answer, because its server was
    killed, is ``interrupted``; one that never began is ``not_started``.
    """
    if standing.is_busy:
        return None
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        return _judge_unanswered(messages, standing)
    error = _judge_last(answers[-1])
    if error is _UNDECIDED:
        if not standing.is_settled:
            return None
        error = failed_by(standing.failure) if standing.failure is not None else _interrupted(answers)
    return _ended(answers, error)


def failed_by(failure: ProviderFailure) -> RunError:
    """Name an error of OpenCode's in our words, with the provider's message."""
    if failure.name == "MessageAbortedError":
        return _ABORTED
    code = _CODES.get(failure.name) or _STATUS_CODES.get(failure.status or 0) or "provider_error"
    if failure.message.startswith("Model not found"):
        code = "model_not_found"
    status = "" if failure.status is None else f" (HTTP {failure.status})"
    return RunError(code, failure.message + status, retryable=failure.is_retryable or code == "rate_limited")


def total_usage(messages: Sequence[SessionMessage]) -> Usage:
    """Sum what the turn's model calls used."""
    return sum((message.usage for message in messages if message.role == "assistant"), Usage())


_UNDECIDED = RunError("undecided", "")
_ABORTED = RunError("aborted", "The turn was aborted.")
_UNFIT = MappingProxyType(
    {
        "length": RunError("output_truncated", "The answer is longer than the model may write; its end is missing."),
        "content-filter": RunError("content_filtered", "The provider's content filter stopped the answer."),
        "error": RunError("provider_error", "The model ended its answer with an error.", retryable=True),
    }
)
"""Reasons to stop that leave an answer unfit to be a success. The rest, most of all ``stop``, end it well."""


def _judge_unanswered(messages: Sequence[SessionMessage], standing: Standing) -> TurnEnd | None:
    if messages and standing.failure is not None:
        return _ended([], failed_by(standing.failure), model=messages[-1].model)
    if not standing.is_overdue:
        return None
    message = "The server took the prompt, but its turn did not begin within the deadline."
    if not messages:
        message = (
            "The prompt did not show up in the session. OpenCode may have refused it, for example for an attached file that it "
            "cannot read; its log tells (`cnap-runner logs`)."
        )
    return TurnEnd(Outcome.FAILED, error=RunError("not_started", message, retryable=True))


def _interrupted(answers: Sequence[SessionMessage]) -> RunError:
    tool = answers[-1].cut_off_tool
    step = sum(not answer.is_summary for answer in answers)
    where = "in the middle of an answer" if tool is None else f"while the tool {tool} ran"
    message = f"The turn stopped {where}, at step {step}: its server was ended. What it did so far is in the session."
    return RunError("interrupted", message, retryable=True, tool=tool)


def _judge_last(answer: SessionMessage) -> RunError | None:
    if answer.error is not None:
        return failed_by(answer.error)
    if not answer.is_complete or answer.is_summary or answer.finish in GOES_ON:
        return _UNDECIDED
    if answer.finish is None:
        # An abort during the pause before a retry completes the message and says nothing else (seen).
        return _ABORTED
    return _UNFIT.get(answer.finish)


def _ended(answers: Sequence[SessionMessage], error: RunError | None, *, model: str | None = None) -> TurnEnd:
    outcome = Outcome.SUCCEEDED if error is None else Outcome.FAILED
    if error is not None and error.code == "aborted":
        outcome = Outcome.ABORTED
    said = [answer for answer in answers if not answer.is_summary]
    return TurnEnd(
        outcome,
        output=said[-1].text if said else "",
        error=error,
        usage=total_usage(answers),
        model=said[-1].model if said else model,
    )
