"""Printing a run while it goes on: for people, or as lines of JSON."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cnap_runner.cli.output import brief, note, plain, printable, spell, stderr, write, write_json
from cnap_runner.errors import RunnerError
from cnap_runner.model.events import (
    MessageCompleted,
    ModelRetrying,
    PermissionRaised,
    QuestionRaised,
    RunEnded,
    RunEvent,
    TextDelta,
    ToolFailed,
    ToolFinished,
    ToolStarted,
)

if TYPE_CHECKING:
    from datetime import datetime

    from cnap_runner.model.run import RunResult

_TOOL_WIDTH = 100
_OUTPUT_LINES = 5
_INPUTS = ("command", "filePath", "path", "pattern", "url", "query", "description")
"""What best says what a tool does, strongest first."""


class Printer(Protocol):
    """Shows one run."""

    def progress(self, text: str) -> None:
        """Say what is waited for."""

    def wait_for_place(self, *, taken: int, places: int) -> None:
        """Say that the run waits for one of the places for containers."""

    def show(self, event: RunEvent) -> None:
        """Show an event."""

    def end(self, result: RunResult) -> None:
        """Show how it ended. Called once, also for a run whose events were not all seen."""

    def refuse(self, error: RunnerError, /) -> None:
        """Show that the run ended without a result. The error itself is told elsewhere."""

    def close(self) -> None:
        """Leave the terminal as it was found. Idempotent."""


class Progress:
    """What is waited for: a spinner on a terminal, a line elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def say(self, text: str) -> None:
        """Replace what is said."""
        if not self._console.is_terminal:
            note(text)
        elif self._status is None:
            self._status = self._console.status(Text(text, style="dim"), spinner="dots")
            self._status.start()
        else:
            self._status.update(Text(text, style="dim"))

    def clear(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class TextPrinter:
    """For people and pipes: the assistant's text on standard output, all else on standard error.

    ``is_streaming`` writes all text as it comes; otherwise only the final message is written, at the end.
    """

    def __init__(self, *, is_streaming: bool) -> None:
        self._is_streaming = is_streaming
        self._console = stderr()
        self._progress = Progress(self._console)
        self._message: str | None = None
        self._written = ""

    def progress(self, text: str) -> None:
        """Say what is waited for."""
        self._progress.say(text)

    def wait_for_place(self, *, taken: int, places: int) -> None:
        """Say it as what is waited for."""
        self.progress(f"waiting for a place ({taken} of {places} taken)")

    def show(self, event: RunEvent) -> None:
        """Show text, tools, what is asked, and retries; the rest says nothing to a person."""
        match event:
            case TextDelta() if self._is_streaming:
                self._stream(event.message_id, event.text)
            case MessageCompleted() if self._is_streaming:
                self._complete(event)
            case ToolStarted():
                self._line(f"> {event.tool}  {brief(_what(event), _TOOL_WIDTH)}", style="cyan")
            case ToolFinished():
                self._line(f"  {event.tool} done{_shown_output(event)}", style="dim")
            case ToolFailed():
                self._line(f"  {event.tool} failed: {brief(event.error, _TOOL_WIDTH)}", style="yellow")
            case PermissionRaised() | QuestionRaised() if event.deadline is not None:
                self._ask(event, event.deadline)
            case ModelRetrying():
                self._line(f"  the model's provider failed, try {event.attempt}: {brief(event.message, _TOOL_WIDTH)}")

    def end(self, result: RunResult) -> None:
        """Write the result, then how it ended."""
        self._progress.clear()
        if not self._is_streaming and result.output:
            write(result.output if result.output.endswith("\n") else f"{result.output}\n")
        self._break_line()
        _tell_end(result)

    def refuse(self, _: RunnerError, /) -> None:
        """Leave the terminal in order; the error is told by whoever ends the command."""
        self.close()

    def close(self) -> None:
        """Take the spinner away and end the line under way."""
        self._progress.clear()
        self._break_line()

    def _stream(self, message_id: str, text: str) -> None:
        self._progress.clear()
        if message_id != self._message:
            self._break_line()
            self._message, self._written = message_id, ""
        self._written += text
        write(text)

    def _complete(self, event: MessageCompleted) -> None:
        """Write what the stream missed of a message, for example over a broken connection."""
        seen = self._written if event.message_id == self._message else ""
        if event.text.startswith(seen):
            self._stream(event.message_id, event.text.removeprefix(seen))
        self._break_line()

    def _ask(self, event: PermissionRaised | QuestionRaised, deadline: datetime) -> None:
        replies = "ANSWER" if isinstance(event, QuestionRaised) else "allow|always|reject"
        self._line(f"? {brief(_asked(event), _TOOL_WIDTH)}", style="yellow")
        self._line(f"  until {deadline.astimezone():%H:%M:%S}: cnap-runner answers reply {event.request_id} {replies}")

    def _line(self, text: str, *, style: str = "") -> None:
        self._progress.clear()
        self._break_line()
        self._console.print(Text(printable(text), style=style))

    def _break_line(self) -> None:
        if self._written and not self._written.endswith("\n"):
            self._written += "\n"
            with suppress(BrokenPipeError):
                write("\n")


class JsonPrinter:
    """For programs: one JSON object per line and event; the last is ``ended`` with the result, or ``error``."""

    def __init__(self) -> None:
        self._has_ended = False

    def progress(self, text: str) -> None:
        """Say it on standard error."""
        note(text)

    def wait_for_place(self, *, taken: int, places: int) -> None:
        """Write it as an event of its own: a run's own events say no more than that it starts."""
        write_json({"type": "waiting", "for": "place", "taken": taken, "places": places})

    def show(self, event: RunEvent) -> None:
        """Write the event; its ``type`` tells which it is."""
        if isinstance(event, RunEnded):
            self.end(event.result)
        else:
            write_json(event)

    def end(self, result: RunResult) -> None:
        """Write the result, once."""
        if not self._has_ended:
            self._has_ended = True
            write_json({"type": "ended", "result": {**plain(result), "success": result.success}})

    def refuse(self, error: RunnerError, /) -> None:
        """Write the error."""
        shown = {"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable}
        write_json({"type": "error", "error": shown})

    def close(self) -> None:
        """Nothing is left open."""


def make_printer(*, is_json: bool, is_streaming: bool | None) -> Printer:
    """Choose how a run is shown. Text streams to a terminal; a pipe gets the final message alone, unless told otherwise."""
    if is_json:
        return JsonPrinter()
    return TextPrinter(is_streaming=sys.stdout.isatty() if is_streaming is None else is_streaming)


def _asked(event: PermissionRaised | QuestionRaised) -> str:
    if isinstance(event, QuestionRaised):
        return " / ".join(str(item.get("question", "")) for item in event.questions)
    return f"may it {event.permission}: {', '.join(event.patterns)}" if event.patterns else f"may it {event.permission}"


def _what(event: ToolStarted) -> str:
    said = next((event.input[name] for name in _INPUTS if isinstance(event.input.get(name), str)), event.title or "")
    return str(said)


def _shown_output(event: ToolFinished) -> str:
    """Give the first lines a command printed; what other tools return is meant for the model."""
    if event.tool != "bash" or not event.output.strip():
        return ""
    lines = [f"\n    {brief(line, _TOOL_WIDTH)}" for line in event.output.strip().splitlines()]
    more = f"\n    … {len(lines) - _OUTPUT_LINES} more lines" if len(lines) > _OUTPUT_LINES else ""
    return ":" + "".join(lines[:_OUTPUT_LINES]) + more


def _tell_end(result: RunResult) -> None:
    usage = result.usage
    spent = f"{spell(result.duration)}, {usage.input_tokens} tokens in, {usage.output_tokens} out"
    if usage.cost:
        spent += f", ${usage.cost:.4f}"
    if result.success:
        note(f"succeeded in {spent}", style="dim")
    else:
        why = f": {result.error.message}" if result.error else ""
        note(f"{str(result.outcome).replace('_', ' ')}{why}", style="red")
        note(f"after {spent}", style="dim")
