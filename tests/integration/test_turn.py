"""Turns on the real OpenCode, with a scripted model: what the fake server claims is checked here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from cnap_runner.errors import ServerNotReady, ServerRefusedPassword, ServerUnreachable
from cnap_runner.model.events import (
    FileEdited,
    MessageCompleted,
    ModelRetrying,
    RunEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    UsageReported,
)
from cnap_runner.model.run import Outcome
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.opencode.feed import SharedFeed
from cnap_runner.opencode.sessions import prepare, was_sent
from cnap_runner.opencode.turn import Turn, TurnEnd, TurnTiming
from cnap_runner.opencode.wire import FilePart, Prompt
from cnap_runner.testing.scripted_model import ScriptedModel

pytestmark = pytest.mark.opencode

PASSWORD = "pass-of-the-tests"
AMPLE = timedelta(seconds=30)
SILENCE = timedelta(seconds=12)


class OpenCode:
    """The real server, bare, on loopback; killed and started again it keeps its port and its sessions."""

    def __init__(self, binary: Path, home: Path, config: dict[str, Any]) -> None:
        self.workspace = home / "workspace"
        self.workspace.mkdir()
        (home / "opencode.json").write_text(json.dumps(config))
        self._binary = binary
        self._home = home
        self._port = "0"
        self._process: Process | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def client(self) -> OpenCodeClient:
        return OpenCodeClient(self.base_url, PASSWORD)

    async def start(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            "XDG_DATA_HOME": str(self._home / "data"),
            "OPENCODE_CONFIG": str(self._home / "opencode.json"),
            "OPENCODE_SERVER_PASSWORD": PASSWORD,
            "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        }
        argv = [str(self._binary), "serve", "--hostname", "127.0.0.1", "--port", self._port]
        self._process = await anyio.open_process(
            argv, env=environment, cwd=self.workspace, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._port = await self._told_port(self._process)

    async def kill(self) -> None:
        """End it as the kernel does."""
        if self._process is not None:
            self._process.kill()
            await self._process.aclose()
            self._process = None

    async def _told_port(self, process: Process) -> str:
        assert process.stdout is not None
        told = ""
        with anyio.fail_after(60):
            async for piece in process.stdout:
                told += piece.decode()
                if "http://" in told and told.endswith("\n"):
                    return told[told.index("http://") :].split()[0].rsplit(":", 1)[1]
        raise AssertionError(f"OpenCode ended: {told}")


@dataclass
class Heard:
    """A session, and what its turns told."""

    client: OpenCodeClient
    stream: SharedFeed
    session_id: str
    events: list[RunEvent] = field(default_factory=list)
    taken: int = 0

    async def emit(self, event: RunEvent) -> None:
        self.events.append(event)

    async def on_taken(self) -> None:
        self.taken += 1

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def turn(self) -> Turn:
        after = await prepare(self.client, self.session_id, timeout=AMPLE)
        timing = TurnTiming(stall_timeout=SILENCE, settle_after=timedelta(seconds=1))
        return Turn(
            self.client, self.stream, session_id=self.session_id, after_message_id=after, emit=self.emit, timing=timing
        )

    async def run(self, prompt: str, *, model: str | None = None) -> TurnEnd:
        turn = await self.turn()
        with anyio.fail_after(60):
            return await turn.send_and_follow(Prompt(texts=(prompt,), model=model), on_taken=self.on_taken)

    async def run_aborted(self, prompt: str, *, once: type[RunEvent], model: str | None = None) -> TurnEnd:
        """Abort the turn as soon as it told an event of that kind."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._abort_once, once)
            return await self.run(prompt, model=model)
        raise AssertionError

    async def _abort_once(self, kind: type[RunEvent]) -> None:
        while not self.of(kind):
            await anyio.sleep(0.01)
        await self.client.abort(self.session_id)


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(api_key="key-of-the-model") as model:
        yield model


@pytest.fixture(scope="module")
async def breaking_model() -> AsyncIterator[str]:
    """The address of a model whose answers end in good order, but without a reason to stop."""
    server = await asyncio.start_server(_answer_without_end, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


async def _answer_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
    choice = {"index": 0, "delta": {"content": "so "}, "finish_reason": None}
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    writer.write(b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n")
    await writer.drain()
    writer.write_eof()
    # Closing with the request's body unread would reset the connection.
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass
    writer.close()


@pytest.fixture(scope="module")
async def server(opencode_binary: Path, model: ScriptedModel, breaking_model: str) -> AsyncIterator[OpenCode]:
    config: dict[str, Any] = {"permission": "allow", "model": model.model, "tools": {"question": False}}
    config |= model.provider_config(api_key="key-of-the-model")
    config["provider"] |= model.provider_config("intruder", api_key="another-key")["provider"]
    for name, address in (("nobody", "http://127.0.0.1:1/v1"), ("breaking", breaking_model)):
        provider = model.provider_config(name)["provider"]
        provider[name]["options"] = {**provider[name]["options"], "baseURL": address}
        config["provider"] |= provider
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        server = OpenCode(opencode_binary, Path(home), config)
        await server.start()
        try:
            yield server
        finally:
            await server.kill()


@pytest.fixture
async def client(server: OpenCode) -> AsyncIterator[OpenCodeClient]:
    async with server.client() as client:
        yield client


@contextlib.asynccontextmanager
async def hearing(client: OpenCodeClient) -> AsyncIterator[Heard]:
    async with contextlib.aclosing(SharedFeed(client, silence=SILENCE)) as stream:
        yield Heard(client, stream, await client.create_session(title="test"))


@pytest.fixture
async def heard(client: OpenCodeClient) -> AsyncIterator[Heard]:
    async with hearing(client) as heard:
        yield heard


async def test_server_is_recognised_and_wants_its_password(server: OpenCode, client: OpenCodeClient) -> None:
    """The handshake tells the pinned version, the probe passes; another password is refused by both."""
    assert (await client.handshake(timeout=AMPLE)).startswith("1.18.")
    await client.probe(timeout=AMPLE)
    async with OpenCodeClient(server.base_url, "wrong") as stranger:
        for ask in (stranger.handshake, stranger.probe):
            with pytest.raises(ServerRefusedPassword):
                await ask(timeout=AMPLE)


async def test_two_turns_of_one_session(heard: Heard, model: ScriptedModel) -> None:
    """Text and reasoning stream; usage and the end are those of the turn; the next turn remembers and tells only its own."""
    first = await heard.run("think: hm\nsay: Hello there")
    assert (first.outcome, first.output, first.model) == (Outcome.SUCCEEDED, "Hello there", "scripted/demo")
    assert (heard.text, heard.taken) == ("Hello there", 1)
    assert first.usage.output_tokens > 0
    assert heard.of(UsageReported)[-1].usage == first.usage

    heard.events.clear()
    second = await heard.run("say: Again")
    assert (second.output, heard.text, len(heard.of(MessageCompleted))) == ("Again", "Again", 1)
    assert len(await heard.client.messages(heard.session_id)) == 4
    assert model.prompts.count("say: Again") == 1


async def test_tools_and_files_are_told(heard: Heard, server: OpenCode) -> None:
    """A turn that writes a file and runs a command tells both, each state once, and leaves the file."""
    end = await heard.run("write: notes.txt\n  remember\nbash: cat notes.txt\nsay: written")
    assert (end.outcome, end.output) == (Outcome.SUCCEEDED, "written")
    assert [event.tool for event in heard.of(ToolStarted)] == ["write", "bash"]
    assert "remember" in heard.of(ToolFinished)[1].output
    assert [Path(event.path).name for event in heard.of(FileEdited)] == ["notes.txt"]
    assert (server.workspace / "notes.txt").read_text().strip() == "remember"


async def test_files_travel_with_the_prompt(heard: Heard) -> None:
    """An attached text is read into the session by OpenCode itself, so the model sees it."""
    turn = await heard.turn()
    prompt = Prompt(("say: ok",), (FilePart("a.txt", "text/plain", b"attached words"),), system="wear a hat")
    end = await turn.send_and_follow(prompt, on_taken=heard.on_taken)
    assert end.outcome is Outcome.SUCCEEDED
    question = (await heard.client.messages(heard.session_id))[0]
    assert any("attached words" in part.text for part in question.parts if part.is_hidden)
    assert "attached words" not in question.text


async def test_abort_ends_the_turn_and_the_next_one_works(heard: Heard) -> None:
    """An aborted turn keeps what was said, and the session stays usable."""
    end = await heard.run_aborted("say: half\nwait: 30s\nsay: never", once=TextDelta)
    assert (end.outcome, end.error and end.error.code) == (Outcome.ABORTED, "aborted")
    assert "half".startswith(end.output.strip())
    assert (await heard.run("say: next")).output == "next"


async def test_refused_key_fails_with_the_providers_words(heard: Heard) -> None:
    """A 401 of the provider ends the turn at once."""
    end = await heard.run("say: x", model="intruder/demo")
    assert end.error is not None
    assert (end.outcome, end.error.code, end.error.retryable) == (Outcome.FAILED, "provider_auth", False)


@pytest.mark.parametrize("status", [429, 500])
async def test_passing_errors_are_retried_and_told(heard: Heard, status: int) -> None:
    """OpenCode calls the model again by itself; the turn tells so, and succeeds."""
    end = await heard.run(f"fail: {status} x1 slow down\nsay: made it")
    assert (end.outcome, end.output) == (Outcome.SUCCEEDED, "made it")
    assert [(event.attempt, "slow down" in event.message) for event in heard.of(ModelRetrying)] == [(1, True)]


async def test_unreachable_model_is_told_while_it_is_retried(heard: Heard) -> None:
    """A refused connection is retried for about a minute; the reason is told at once, and an abort ends it."""
    end = await heard.run_aborted("say: x", once=ModelRetrying, model="nobody/demo")
    assert end.outcome is Outcome.ABORTED
    assert "connect" in heard.of(ModelRetrying)[0].message.lower()


async def test_unknown_model_fails_at_once(heard: Heard) -> None:
    """An error that OpenCode writes into no message ends the turn all the same."""
    end = await heard.run("say: x", model="scripted/unheard-of")
    assert end.error is not None
    assert (end.outcome, end.error.code) == (Outcome.FAILED, "model_not_found")
    assert "unheard-of" in end.error.message
    # A session remembers the model of its last prompt.
    assert (await heard.run("say: next", model="scripted/demo")).output == "next"


async def test_answer_that_breaks_off_once_is_asked_for_again(heard: Heard) -> None:
    """A model's stream that is cut once costs an answer, not the turn."""
    end = await heard.run("cut: x1 so f\nsay: whole")
    assert (end.outcome, end.output) == (Outcome.SUCCEEDED, "whole")


async def test_model_connection_that_always_breaks_is_told_while_it_is_retried(heard: Heard) -> None:
    """A connection of the model that breaks each time is retried like a refused one."""
    end = await heard.run_aborted("cut: so far", once=ModelRetrying)
    assert end.outcome is Outcome.ABORTED


async def test_answers_that_always_stop_short_end_the_turn(heard: Heard) -> None:
    """A model whose answers end without a reason would be asked again for ever, at once; the turn is given up."""
    end = await heard.run("x", model="breaking/demo")
    assert end.error is not None
    assert (end.outcome, end.error.code, end.error.retryable) == (Outcome.FAILED, "provider_error", True)
    assert not await heard.client.is_busy(heard.session_id)


async def test_f15_stream_cut_in_mid_turn_loses_and_repeats_nothing(server: OpenCode, model: ScriptedModel) -> None:
    """With every connection cut again and again during a turn, all of its text is told, once."""
    words = " ".join(f"word{number}" for number in range(60))
    async with (
        CuttingProxy(server.base_url) as proxy,
        OpenCodeClient(proxy.base_url, PASSWORD) as client,
        hearing(client) as heard,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cut_when_heard, proxy, heard)
            end = await heard.run(f"say: {words}\nbash: sleep 0.3\nsay: the end")
            tasks.cancel_scope.cancel()
        assert proxy.cuts == 2
    assert (end.outcome, end.output) == (Outcome.SUCCEEDED, "the end")
    assert (heard.text, heard.taken) == (f"{words}the end", 1)
    assert len(heard.of(ToolStarted)) == len(heard.of(ToolFinished)) == 1
    assert sum(words in prompt for prompt in model.prompts) == 1


async def test_f12_server_killed_in_mid_turn_and_started_again(
    server: OpenCode, client: OpenCodeClient, heard: Heard
) -> None:
    """A turn cut off by SIGKILL is interrupted, for who followed it and for who takes it over; the session goes on."""
    turn = await heard.turn()
    ends: list[TurnEnd] = []

    async def follow() -> None:
        prompt = Prompt(("bash: sleep 4; echo late\nsay: never",))
        ends.append(await turn.send_and_follow(prompt, on_taken=heard.on_taken))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        while not heard.of(ToolStarted):
            await anyio.sleep(0.01)
        await server.kill()
        with pytest.raises((ServerUnreachable, ServerNotReady)):
            await client.handshake(timeout=timedelta(seconds=5))
        await server.start()

    assert await was_sent(client, heard.session_id, None)
    successor = Heard(client, heard.stream, heard.session_id)
    later = Turn(client, heard.stream, session_id=heard.session_id, after_message_id=None, emit=successor.emit)
    ends.append(await later.follow())
    assert [(end.outcome, end.error and end.error.code) for end in ends] == [(Outcome.FAILED, "interrupted")] * 2
    assert [end.error and end.error.tool for end in ends] == ["bash", "bash"]
    messages = await client.messages(heard.session_id)
    assert messages[-1].has_running_tool
    assert await prepare(client, heard.session_id, timeout=timedelta(seconds=10)) == messages[-1].id
    mended = (await client.messages(heard.session_id))[-1]
    (call,) = [part.call for part in mended.parts if part.call is not None]
    assert (mended.has_running_tool, call.status, call.error) == (False, "error", "Interrupted: the server was ended")
    assert (await heard.run("say: next")).output == "next"


class CuttingProxy:
    """Stands between a client and the server, and cuts all connections when told to."""

    def __init__(self, base_url: str) -> None:
        self._target = int(base_url.rsplit(":", 1)[1])
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target)
        pair = {writer, upstream}
        self._writers |= pair
        try:
            await asyncio.gather(_copy(reader, upstream), _copy(upstream_reader, writer))
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _cut_when_heard(proxy: CuttingProxy, heard: Heard) -> None:
    """Cut in the middle of the text, and again while the tool runs."""
    while "word5 " not in heard.text:
        await anyio.sleep(0.001)
    proxy.cut()
    while not heard.of(ToolStarted):
        await anyio.sleep(0.001)
    proxy.cut()
