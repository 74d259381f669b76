"""One turn, driven to its true end.

The stream of events hastens things and is never believed: that the turn is over, and how it ended, is read by request from the
server's own messages. A stream that breaks is opened anew, one that says nothing is backed by reading; either way nothing is told
twice, nothing is lost, and the prompt is sent once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import anyio

from cnap_runner.errors import ServerError, ServerRejected, ServerUnreachable
from cnap_runner.model.run import Outcome, RunError
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.events import MessageUpdated, OtherEvent, ServerEvent, SessionFailed, SessionStatus
from cnap_runner.opencode.feed import Feed, FeedItem, Lost, Opened, SharedFeed
from cnap_runner.opencode.narrator import Emit, Narrator
from cnap_runner.opencode.sessions import FIRST_LOOK, LAST_LOOK, read_turn
from cnap_runner.opencode.trouble import ConnectionLost
from cnap_runner.opencode.verdict import Standing, TurnEnd, is_later, judge
from cnap_runner.opencode.wire import Prompt, ProviderFailure, SessionMessage

__all__ = ["Turn", "TurnEnd", "TurnTiming"]

FIRST_READ_LIMIT = 2.0
LAST_READ_LIMIT = 30.0
"""Seconds that one reading may take: doubling with each that took longer. A server that boots takes requests and never answers them (seen)."""
SERVER_FAILED = 500
"""The first status of errors after which a prompt may have been taken all the same."""
MOST_BROKEN_ANSWERS = 5
"""Answers that broke off, one after the other, at which a turn is given up. OpenCode itself asks again for ever (seen)."""


@dataclass(frozen=True, slots=True)
class TurnTiming:
    """How patient a turn is."""

    stall_timeout: timedelta = timedelta(seconds=15)
    """Without news of the session for so long, its state is read by request."""
    not_started_after: timedelta = timedelta(seconds=60)
    """A prompt whose turn has not begun by then ends as ``not_started``."""
    settle_after: timedelta = timedelta(seconds=3)
    """A session that is idle in mid-answer for so long is not tidying up any more: its turn was interrupted."""
    unreadable_after: timedelta = timedelta(seconds=60)
    """A server that answers for so long without giving the messages leaves the end ``unknown``."""


class Turn:
    """One turn of one session. May be followed again by the same object after it was left; nothing is told twice."""

    def __init__(
        self,
        client: OpenCodeClient,
        events: SharedFeed,
        *,
        session_id: str,
        after_message_id: str | None,
        emit: Emit,
        timing: TurnTiming | None = None,
    ) -> None:
        """``events`` is the same server's stream. ``after_message_id`` is what `prepare` returned: the turn is what comes after it."""
        self.session_id = session_id
        self._client = client
        self._events = events
        self._after = after_message_id
        self._timing = timing or TurnTiming()
        self._narrator = Narrator(emit, session_id=session_id, after_message_id=after_message_id)
        self._on_taken: Callable[[], Awaitable[None]] | None = None
        self._failure: ProviderFailure | None = None
        self._is_given_up = False
        # Whether the turn's user message was seen, and whether an answer to it was.
        self._is_asked = False
        self._has_begun = False
        self._is_streaming = False
        # Moments of the event loop's clock.
        self._news_at = self._begins_by = self._read_at = 0.0
        self._idle_since: float | None = None
        self._unreadable_since: float | None = None
        self._looks = self._slow_reads = 0

    async def send_and_follow(
        self,
        prompt: Prompt,
        *,
        on_taken: Callable[[], Awaitable[None]],
        before_send: Callable[[], Awaitable[None]] | None = None,
    ) -> TurnEnd:
        """Send the prompt, once, and follow its turn to the end.

        ``before_send`` is awaited once, while the stream is being opened if it is not open yet; the prompt leaves after it. What it raises is raised.
        ``on_taken`` is awaited once, as soon as it is known that the server has the prompt. An error raised before that was
        awaited (`ServerUnreachable`, `ServerRejected` …) means that the prompt was certainly not taken. Where its fate is not
        known, because the connection broke or the server failed, the session is watched: the prompt shows up there, or
        the turn ends as ``not_started``.
        """
        self._on_taken = on_taken
        async with self._events.listen(self.session_id) as feed:
            if before_send is not None:
                await before_send()
            first = await feed.next()
            if isinstance(first, Lost):
                raise first.reason or ServerUnreachable("The server ended the stream of events at once.")
            self._is_streaming = True
            await self._send(prompt)
            return await self._follow(feed)

    async def follow(self) -> TurnEnd:
        """Follow to its end a turn whose prompt was, or may have been, sent before, by this process or by one that died.

        What it did before is told first.
        """
        self._is_streaming = False
        self._narrator.stream_broke()
        async with self._events.listen(self.session_id) as feed:
            return await self._follow(feed)

    async def _send(self, prompt: Prompt) -> None:
        try:
            await self._client.send_prompt(self.session_id, prompt)
        except ConnectionLost:
            return
        except ServerRejected as error:
            if error.status is None or error.status < SERVER_FAILED:
                raise
            return
        await self._taken()

    async def _taken(self) -> None:
        on_taken, self._on_taken = self._on_taken, None
        if on_taken is not None:
            await on_taken()

    async def _follow(self, feed: Feed) -> TurnEnd:
        now = anyio.current_time()
        self._news_at = self._read_at = now
        self._idle_since, self._looks = None, 0
        self._begins_by = now + self._timing.not_started_after.total_seconds()
        end: TurnEnd | None = None
        while end is None:
            item = await feed.next(timeout=self._patience())
            is_idle = isinstance(item, SessionStatus) and item.session_id == self.session_id and item.status == "idle"
            if is_idle or await self._hear(item):
                end = await self._look(is_known_idle=is_idle)
            await self._guard()
        return end

    def _patience(self) -> float:
        """Seconds to wait for the stream before the session is read."""
        now = anyio.current_time()
        if self._idle_since is not None or self._on_taken is not None:
            return min(FIRST_LOOK * (1 << min(self._looks, 8)), LAST_LOOK)
        if not self._is_streaming:
            return LAST_LOOK
        latest = max(self._news_at, self._read_at) + self._timing.stall_timeout.total_seconds()
        if not self._has_begun:
            latest = min(latest, self._begins_by)
        return max(latest - now, 0.0)

    async def _hear(self, item: FeedItem | None) -> bool:
        """Take in what the stream told, and say whether the session should be read now."""
        match item:
            case None:
                return True
            case Opened():
                self._is_streaming = True
                return True
            case Lost():
                self._is_streaming = False
                self._narrator.stream_broke()
                return True
            case OtherEvent():
                return False
        self._note(item)
        await self._narrator.hear(item)
        return False

    def _note(self, event: ServerEvent) -> None:
        """Remember what matters for the end of the turn."""
        if getattr(event, "session_id", None) != self.session_id:
            return
        self._news_at = anyio.current_time()
        self._idle_since, self._looks = None, 0
        match event:
            case SessionFailed(_, failure) if self._is_asked:
                self._failure = self._failure or failure
            case SessionStatus():
                # Whatever was told before, OpenCode got over it.
                self._failure = None
            case MessageUpdated(_, message) if is_later(message.id, self._after):
                self._is_asked = True
                self._has_begun = self._has_begun or message.role == "assistant"

    async def _look(self, *, is_known_idle: bool) -> TurnEnd | None:
        """Read the session and tell what was not told; return the end where it is one."""
        now = self._read_at = anyio.current_time()
        self._looks += 1
        try:
            with anyio.fail_after(min(FIRST_READ_LIMIT * (1 << min(self._slow_reads, 8)), LAST_READ_LIMIT)):
                is_busy = not is_known_idle and await self._client.is_busy(self.session_id)
                messages = await read_turn(self._client, self.session_id, self._after)
        except (ServerError, TimeoutError) as error:
            self._slow_reads += isinstance(error, TimeoutError)
            return self._judge_unreadable(error, now)
        self._slow_reads, self._unreadable_since = 0, None
        await self._take_in(messages, is_busy=is_busy, now=now)
        if is_busy and messages:
            await self._read_waits(since=messages[0].id)
        end = judge(messages, self._standing(is_busy=is_busy, now=now))
        if end is None:
            return None
        await self._narrator.read(messages, is_over=True)
        return self._completed(replace(end, last_message_id=messages[-1].id if messages else self._after))

    async def _take_in(self, messages: Sequence[SessionMessage], *, is_busy: bool, now: float) -> None:
        if messages:
            self._is_asked = True
            await self._taken()
        self._has_begun = self._has_begun or any(message.role == "assistant" for message in messages)
        if is_busy:
            self._idle_since, self._looks = None, 0
        elif self._idle_since is None:
            self._idle_since = now
        await self._narrator.read(messages)

    async def _read_waits(self, *, since: str) -> None:
        """Tell what the turn waits for and the stream did not tell. What could not be read is read at the next look."""
        try:
            with anyio.fail_after(FIRST_READ_LIMIT):
                waits = await self._client.waits()
        except (ServerError, TimeoutError):
            return
        # What turns that were aborted waited for stays listed for ever; ids ascend with time, over all sessions.
        await self._narrator.read_waits(wait for wait in waits if _moment_of(wait.request_id) > _moment_of(since))

    def _standing(self, *, is_busy: bool, now: float) -> Standing:
        idle_for = 0.0 if self._idle_since is None else now - self._idle_since
        return Standing(
            is_busy=is_busy,
            is_settled=idle_for >= self._timing.settle_after.total_seconds(),
            is_overdue=now >= self._begins_by,
            failure=self._failure,
        )

    def _judge_unreadable(self, error: ServerError | TimeoutError, now: float) -> TurnEnd | None:
        """A server that is away may come back, and whoever watches its instance ends the turn otherwise. One that answers
        without giving the messages leaves the end unknown."""
        if isinstance(error, ServerUnreachable | TimeoutError):
            return None
        if self._unreadable_since is None:
            self._unreadable_since = now
        is_patient = isinstance(error, ServerRejected)
        if is_patient and now - self._unreadable_since < self._timing.unreadable_after.total_seconds():
            return None
        message = f"How the turn ended cannot be known, because its messages cannot be read: {error.message}"
        return TurnEnd(Outcome.UNKNOWN, output=self._narrator.heard, error=RunError("unknown", message))

    async def _guard(self) -> None:
        """End a turn whose answers all break off: OpenCode would ask the provider again for ever, and at once."""
        if self._narrator.broken_answers < MOST_BROKEN_ANSWERS or self._is_given_up:
            return
        with contextlib.suppress(ServerError):
            await self._client.abort(self.session_id)
            self._is_given_up = True

    def _completed(self, end: TurnEnd) -> TurnEnd:
        """Add what only this process knows: text that was heard and never stored, and why a turn was given up."""
        if end.outcome is Outcome.SUCCEEDED:
            return end
        if self._is_given_up and end.outcome is Outcome.ABORTED:
            message = f"The model's answers broke off before their end, {MOST_BROKEN_ANSWERS} times in a row."
            end = replace(end, outcome=Outcome.FAILED, error=RunError("provider_error", message, retryable=True))
        return replace(end, output=end.output or self._narrator.heard)


def _moment_of(server_id: str) -> str:
    """Give the part of an id that ascends with time, whatever it is an id of."""
    return server_id.partition("_")[2]
