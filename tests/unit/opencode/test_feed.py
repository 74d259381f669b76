"""The stream that turns share: opened once, kept, opened anew while somebody listens, closed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import anyio
import pytest

from cnap_runner.errors import ServerUnreachable
from cnap_runner.opencode import feed as feeds
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.events import FileChanged, SessionStatus
from cnap_runner.opencode.feed import Backoff, Feed, FeedItem, Lost, Opened, SharedFeed
from cnap_runner.testing.fake_opencode import FakeOpenCode
from cnap_runner.testing.fake_opencode.http import Request, Response

PASSWORD = "pass-of-the-tests"
SOON = timedelta(milliseconds=100)
HASTILY = Backoff(timedelta(milliseconds=5), timedelta(milliseconds=20))


@pytest.fixture
async def shared(client: OpenCodeClient) -> AsyncIterator[SharedFeed]:
    async with aclosing(SharedFeed(client, silence=timedelta(seconds=10), backoff=HASTILY)) as shared:
        yield shared


async def next_of(feed: Feed) -> FeedItem:
    with anyio.fail_after(5):
        item = await feed.next()
    assert item is not None
    return item


def change(server: FakeOpenCode, name: str) -> None:
    server.streams.publish("file.edited", {"file": name})


async def wait_closed(shared: SharedFeed) -> None:
    with anyio.fail_after(5):
        while shared.is_open:
            await anyio.sleep(0.001)


async def test_one_stream_serves_one_listener_after_the_other(server: FakeOpenCode, shared: SharedFeed) -> None:
    """The stream outlives its listeners; each is told first that it stands."""
    for number in range(3):
        async with shared.listen("ses_1") as feed:
            assert await next_of(feed) == Opened()
            change(server, f"during {number}")
            assert await next_of(feed) == FileChanged(f"during {number}")
    assert server.streams.opened == 1


async def test_listeners_hear_their_own_session(server: FakeOpenCode, shared: SharedFeed) -> None:
    """Messages of other sessions are left out; what may concern a subagent, and what has no session, is told to all."""
    async with shared.listen("ses_1") as one, shared.listen("ses_2") as two:
        assert [await next_of(one), await next_of(two)] == [Opened(), Opened()]
        for session_id in ("ses_1", "ses_2"):
            delta = {"sessionID": session_id, "messageID": "m", "partID": "p", "field": "text", "delta": session_id}
            server.streams.publish("message.part.delta", delta)
        server.streams.publish("session.status", {"sessionID": "ses_3", "status": {"type": "busy"}})
        change(server, "last")
        heard = [[await next_of(feed) for _ in range(3)] for feed in (one, two)]
    assert [getattr(items[0], "text", "") for items in heard] == ["ses_1", "ses_2"]
    assert [items[1:] for items in heard] == [[SessionStatus("ses_3", "busy"), FileChanged("last")]] * 2


async def test_a_break_is_told_and_the_stream_opened_anew(server: FakeOpenCode, shared: SharedFeed) -> None:
    """Each listener hears of the break and then that the stream stands again."""
    async with shared.listen("ses_1") as one, shared.listen("ses_1") as two:
        assert [await next_of(one), await next_of(two)] == [Opened(), Opened()]
        await server.streams.drop()
        for feed in (one, two):
            assert [type(await next_of(feed)) for _ in range(2)] == [Lost, Opened]
    assert server.streams.opened == 2


async def test_without_listeners_a_broken_stream_is_left_until_somebody_listens(
    server: FakeOpenCode, shared: SharedFeed
) -> None:
    """A server that ended is not asked for ever; the next listener opens the stream anew."""
    async with shared.listen("ses_1") as feed:
        await next_of(feed)
    await server.streams.drop()
    await wait_closed(shared)
    await anyio.sleep(0.1)
    assert server.streams.opened == 1
    async with shared.listen("ses_1") as feed:
        assert await next_of(feed) == Opened()
    assert server.streams.opened == 2


async def test_a_stream_without_a_sign_does_not_count_as_open(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """One that stood before and fell silent between two turns is opened anew for the next."""
    async with aclosing(SharedFeed(client, silence=SOON, backoff=HASTILY)) as shared:
        async with shared.listen("ses_1") as feed:
            assert await next_of(feed) == Opened()
        server.streams.mute()
        await wait_closed(shared)
        async with shared.listen("ses_1") as feed:
            assert await next_of(feed) == Opened()
            change(server, "news")
            assert await next_of(feed) == FileChanged("news")


async def test_a_new_listener_does_not_wait_for_the_pause(server: FakeOpenCode, client: OpenCodeClient) -> None:
    """Whoever begins to listen while the next try is far off brings it about at once."""
    patient = Backoff(timedelta(minutes=1), timedelta(minutes=1))
    async with (
        aclosing(SharedFeed(client, silence=timedelta(seconds=10), backoff=patient)) as shared,
        shared.listen("ses_1") as one,
    ):
        assert await next_of(one) == Opened()
        await server.streams.drop()
        assert isinstance(await next_of(one), Lost)
        async with shared.listen("ses_2") as two:
            assert [await next_of(one), await next_of(two)] == [Opened(), Opened()]


class SwallowingOpenCode(FakeOpenCode):
    """Takes the first request for its stream and never answers it, as a server that boots does."""

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> Response | None:
        is_first = not self.requests
        self.requests.append(request.path)
        if is_first:
            await asyncio.Event().wait()
        return await super()._handle(request, writer)


async def test_a_new_listener_does_not_wait_for_a_try_that_hangs() -> None:
    """A request that a booting server swallowed is given up for a new one when somebody begins to listen."""
    async with (
        SwallowingOpenCode(PASSWORD) as server,
        OpenCodeClient(server.base_url, PASSWORD) as client,
        aclosing(SharedFeed(client, silence=timedelta(seconds=10))) as shared,
        shared.listen("ses_1") as one,
    ):
        while not server.requests:
            await anyio.sleep(0.001)
        async with shared.listen("ses_1") as two:
            assert [await next_of(one), await next_of(two)] == [Opened(), Opened()]


async def test_server_that_is_gone_is_told_at_once(server: FakeOpenCode, shared: SharedFeed) -> None:
    """The first item says that nothing answers."""
    await server.kill()
    async with shared.listen("ses_1") as feed:
        lost = await next_of(feed)
    assert isinstance(lost, Lost)
    assert isinstance(lost.reason, ServerUnreachable)


async def test_a_slow_listener_holds_nobody_up_and_knows_what_it_missed(
    server: FakeOpenCode, shared: SharedFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lets too much lie is told of a break where it begins to miss something; the others hear everything."""
    monkeypatch.setattr(feeds, "ROOM", 4)
    names = [str(number) for number in range(10)]
    async with shared.listen("ses_1") as slow, shared.listen("ses_1") as quick:
        assert await next_of(quick) == Opened()
        for name in names:
            change(server, name)
            assert await next_of(quick) == FileChanged(name)
        assert [await next_of(slow) for _ in range(6)] == [
            Opened(),
            *(FileChanged(name) for name in names[:3]),
            Lost(None),
            Opened(),
        ]
        change(server, "in step again")
        assert await next_of(slow) == FileChanged("in step again")


async def test_closing_tells_the_listeners_and_leaves_no_task(client: OpenCodeClient, server: FakeOpenCode) -> None:
    """After the end whoever listens, or begins to, is told that there is no stream; closing twice is no error."""
    shared = SharedFeed(client, silence=timedelta(seconds=10))
    async with shared.listen("ses_1") as feed:
        assert await next_of(feed) == Opened()
        await shared.aclose()
        assert isinstance(await next_of(feed), Lost)
    async with shared.listen("ses_1") as feed:
        assert isinstance(await next_of(feed), Lost)
    await shared.aclose()
    assert feeds.TASK_NAME not in {task.get_name() for task in asyncio.all_tasks()}
    assert server.streams.opened == 1


async def test_a_bug_is_raised_where_it_is_listened(
    server: FakeOpenCode, shared: SharedFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is none of the server's comes out of `next`, after what was heard before; the next listener tries anew."""

    def stumble(_: str) -> None:
        raise LookupError("mine")

    async with shared.listen("ses_1") as feed:
        assert await next_of(feed) == Opened()
        with monkeypatch.context() as patch:
            patch.setattr(feeds, "parse_event", stumble)
            change(server, "a")
            with pytest.raises(LookupError, match="mine"):
                await next_of(feed)
    async with shared.listen("ses_1") as feed:
        assert await next_of(feed) == Opened()
