"""The scripted model says what its script says, in the protocol that agents speak."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnap_runner.errors import InvalidInput
from cnap_runner.testing.scripted_model import (
    CallTool,
    CutStream,
    Fail,
    Hang,
    Malformed,
    RecordedRequest,
    Reply,
    Rule,
    Say,
    ScriptedModel,
    Step,
    Think,
    TokenUsage,
    Wait,
    load_rules,
    parse_prompt,
    parse_script,
    read_log,
)
from cnap_runner.testing.scripted_model.wire import pieces

TITLE_SYSTEM = {"role": "system", "content": "You are a title generator. You output ONLY a thread title."}


def user(text: str | list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "user", "content": text}


def after_tools(prompt: str, rounds: int) -> list[dict[str, Any]]:
    """A conversation in which the agent has come back with the results of so many rounds of tools."""
    answered: list[dict[str, Any]] = [
        {"role": "assistant", "content": None},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ]
    return [user(prompt), *answered * rounds]


async def ask(model: ScriptedModel, *messages: dict[str, Any], **fields: Any) -> httpx.Response:
    """One request, streamed unless told otherwise."""
    headers = fields.pop("headers", {})
    body = {"model": "demo", "stream": True, "messages": list(messages), **fields}
    async with httpx.AsyncClient(base_url=model.base_url, timeout=10) as client:
        return await client.post("/chat/completions", json=body, headers=headers)


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that has ended as it should."""
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [json.loads(each) for each in events]


def deltas(response: httpx.Response, name: str) -> list[Any]:
    found = [each["choices"][0]["delta"].get(name) for each in chunks(response) if each["choices"]]
    return [each for each in found if each]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


async def test_text_is_streamed_a_word_at_a_time(model: ScriptedModel) -> None:
    """The chunks joined are the text, and the reply ends with a reason and its usage."""
    response = await ask(model, user("say: one two\n  three"))
    assert deltas(response, "content") == ["one", " two", "\nthree"]
    *_, last, usage = chunks(response)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["total_tokens"] > 0


@given(text=st.text(), size=st.none() | st.integers(1, 5))
def test_chunks_are_the_text(text: str, size: int | None) -> None:
    """Whatever the text and the size of chunks, nothing is lost or added."""
    assert "".join(pieces(Say(text, chunk_size=size))) == text


async def test_a_reply_that_is_not_streamed_says_the_same(model: ScriptedModel) -> None:
    """Text, reasoning and tool calls are in one body when the client does not stream."""
    script = "think: hm\nsay: listing\nbash: ls"
    body = (await ask(model, user(script), stream=False)).json()
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("listing", "hm")
    assert json.loads(message["tool_calls"][0]["function"]["arguments"])["command"] == "ls"
    assert body["choices"][0]["finish_reason"] == "tool_calls"


async def test_which_reply_is_due_comes_from_the_conversation(model: ScriptedModel) -> None:
    """Each round of tool results brings the next reply, and a turn beyond its script ends with a word."""
    prompt = "bash: ls\nbash: pwd\nsay: both ran"
    said = [await ask(model, *after_tools(prompt, rounds)) for rounds in (2, 0, 1, 3)]
    assert deltas(said[0], "content") == ["both", " ran"]
    assert '"ls"' in said[1].text.replace("\\", "")
    assert '"pwd"' in said[2].text.replace("\\", "")
    assert deltas(said[3], "content") == ["Done."]
    assert [each.number for each in model.requests] == [2, 0, 1, 3]
    assert model.prompts == [prompt]


async def test_tool_calls_of_one_reply_come_together() -> None:
    """A `Reply` with several calls has them all, numbered, with ids of their own."""
    reply = Reply(Think("hm"), CallTool("bash", {"command": "a"}), CallTool("bash", {"command": "b"}))
    async with ScriptedModel([Rule("go", reply)]) as model:
        response = await ask(model, user("go"))
    calls = [call for delta in deltas(response, "tool_calls") for call in delta]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert deltas(response, "reasoning_content") == ["hm"]


async def test_the_first_rule_that_matches_wins() -> None:
    """Rules come before a script in the prompt, and a default is for what nothing matches."""
    rules = [Rule("readme", Say("first")), Rule("say:", Say("second"))]
    async with ScriptedModel(rules, default=Say("third")) as model:
        said = [deltas(await ask(model, user(text)), "content") for text in ("say: a README", "say: x", "other")]
    assert said == [["first"], ["second"], ["third"]]


async def test_a_prompt_in_plain_words_is_echoed(model: ScriptedModel) -> None:
    """Without any script the answer still makes sense."""
    assert "".join(deltas(await ask(model, user("Hello: you")), "content")) == "You said: Hello: you"


async def test_a_script_is_found_beside_other_parts(model: ScriptedModel) -> None:
    """Texts that an agent adds to the user's own do not hide the script."""
    parts = [{"type": "text", "text": "<file>notes</file>"}, {"type": "text", "text": "say: found"}]
    assert deltas(await ask(model, user(parts)), "content") == ["found"]


async def test_a_title_is_no_prompt(model: ScriptedModel) -> None:
    """OpenCode's request for a title gets a fixed one and is marked, whatever the prompt says."""
    response = await ask(model, TITLE_SYSTEM, user("Generate a title"), user("fail: 500"))
    assert "".join(deltas(response, "content")) == "A scripted session"
    assert [each.is_title for each in model.requests] == [True]
    assert model.prompts == []


async def test_usage_is_what_the_script_says() -> None:
    """Usage in a script is sent as it is."""
    usage = TokenUsage(input_tokens=100, output_tokens=20, reasoning_tokens=5, cached_tokens=30)
    async with ScriptedModel(default=Reply(Say("x"), usage=usage)) as model:
        sent = chunks(await ask(model, user("go")))[-1]["usage"]
    assert (sent["prompt_tokens"], sent["completion_tokens"], sent["total_tokens"]) == (100, 20, 120)
    assert sent["prompt_tokens_details"]["cached_tokens"] == 30
    assert sent["completion_tokens_details"]["reasoning_tokens"] == 5


async def test_an_error_looks_like_a_providers() -> None:
    """Status, body and Retry-After are what a provider sends."""
    async with ScriptedModel(default=Fail(429, "slow down", retry_after=timedelta(seconds=7))) as model:
        response = await ask(model, user("go"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["error"]["message"] == "slow down"
    assert response.json()["error"]["type"] == "rate_limit_error"


async def test_an_error_may_pass_after_some_tries(model: ScriptedModel) -> None:
    """`times` counts the same request of the same session; a retry is no new prompt."""
    prompt = user("fail: 500 x2 broken\nsay: mended")
    statuses = [(await ask(model, prompt, headers={"x-session-id": "a"})).status_code for _ in range(3)]
    other = await ask(model, prompt, headers={"x-session-id": "b"})
    assert (statuses, other.status_code) == ([500, 500, 200], 500)
    assert len(model.prompts) == 2


async def test_a_cut_stream_breaks_off(model: ScriptedModel) -> None:
    """The client gets the text and then a broken connection; the next try may go through."""
    received = ""
    body = {"model": "demo", "stream": True, "messages": [user("cut: x1 one two\nsay: whole")]}
    async with httpx.AsyncClient(base_url=model.base_url) as client:
        async with client.stream("POST", "/chat/completions", json=body) as response:
            with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - the loop is the call that raises
                async for text in response.aiter_text():
                    received += text
        again = await client.post("/chat/completions", json=body)
    assert "two" in received
    assert deltas(again, "content") == ["whole"]


@pytest.mark.parametrize("steps", [[CutStream()], [Malformed()]])
async def test_a_reply_that_is_not_streamed_breaks_too(steps: list[Step]) -> None:
    """Cut and malformed replies break a client that does not stream as well."""
    async with ScriptedModel(default=steps) as model:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(model, user("go"), stream=False)


async def test_a_malformed_chunk_is_no_json(model: ScriptedModel) -> None:
    """One event cannot be read, the others can."""
    response = await ask(model, user("malformed"))
    with pytest.raises(json.JSONDecodeError):
        chunks(response)
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("script", ["hang", "say: begun\nhang"])
async def test_a_hang_never_ends_and_does_not_hold_the_server_up(script: str) -> None:
    """The server closes although a client still waits for a reply that never ends."""
    async with anyio.create_task_group() as clients, ScriptedModel() as model:
        clients.start_soon(_ask_in_vain, model, script)
        while not model.requests:
            await anyio.sleep(0.01)


async def _ask_in_vain(model: ScriptedModel, script: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        response = await ask(model, user(script))
        assert response.status_code == 500


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_delays_come_before_the_first_token(*, is_streamed: bool) -> None:
    """A reply that is to come later is not there before."""
    slow = Reply(Wait(timedelta(milliseconds=50)), Say("late"), first_token_after=timedelta(milliseconds=50))
    async with ScriptedModel(default=slow) as model:
        before = anyio.current_time()
        response = await ask(model, user("go"), stream=is_streamed)
        assert anyio.current_time() - before >= 0.1
    assert "late" in response.text


async def test_a_key_is_asked_for() -> None:
    """Without the right key each call is refused and nothing is recorded."""
    async with ScriptedModel(api_key="k-right") as model:
        wrong = await ask(model, user("hi"), headers={"authorization": "Bearer k-wrong"})
        assert (wrong.status_code, model.requests) == (401, [])
        right = await ask(model, user("hi"), headers={"authorization": "Bearer k-right"})
        async with httpx.AsyncClient(base_url=model.base_url) as client:
            models = await client.get("/models")
    assert (right.status_code, models.status_code) == (200, 401)


async def test_models_are_listed(model: ScriptedModel) -> None:
    """`GET /v1/models` names the demo model."""
    async with httpx.AsyncClient(base_url=model.base_url) as client:
        assert (await client.get("/models")).json()["data"][0]["id"] == "demo"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"'])
async def test_nonsense_is_refused(model: ScriptedModel, body: bytes) -> None:
    """A body that is no request gets 400."""
    async with httpx.AsyncClient(base_url=model.base_url) as client:
        assert (await client.post("/chat/completions", content=body)).status_code == 400


async def test_a_script_with_a_mistake_says_so(model: ScriptedModel) -> None:
    """The author of a prompt reads what is wrong with it in the provider's error."""
    response = await ask(model, user("say: hi\nsya: ho"))
    assert response.status_code == 400
    assert "sya: ho" in response.json()["error"]["message"]


async def test_the_configuration_names_the_server(model: ScriptedModel) -> None:
    """Provider and model fit together, and a container gets the name it reaches this machine by."""
    config = model.provider_config(host="host.docker.internal", api_key="${MODEL_KEY}")
    provider, _, name = model.model.partition("/")
    options = config["provider"][provider]["options"]
    assert name in config["provider"][provider]["models"]
    assert options == {"baseURL": f"http://host.docker.internal:{model.port}/v1", "apiKey": "${MODEL_KEY}"}


async def test_the_port_is_free_again_afterwards() -> None:
    """A model can be started again on the port it had, and carries on in mid-turn."""
    async with ScriptedModel() as first:
        await ask(first, user("bash: ls\nsay: went on"))
    async with ScriptedModel(port=first.port) as second:
        response = await ask(second, *after_tools("bash: ls\nsay: went on", 1))
        assert deltas(response, "content") == ["went", " on"]
        with pytest.raises(InvalidInput, match="cannot listen"):
            async with ScriptedModel(port=second.port):
                pass


async def test_the_log_file_has_every_request(tmp_path: Path) -> None:
    """A file tells what came, also to another process, and goes on after a restart."""
    path = tmp_path / "requests.jsonl"
    assert read_log(path) == []
    recorded: list[RecordedRequest] = []
    for prompt in ("one", "two"):
        async with ScriptedModel(log_path=path) as model:
            await ask(model, user(prompt), headers={"x-session-id": "s"})
            recorded += model.requests
    assert read_log(path) == recorded
    assert [each.prompt for each in recorded if each.is_prompt] == ["one", "two"]


def test_the_language_knows_every_step() -> None:
    """Each line becomes its step, indented lines continue it, tool calls end a reply."""
    turn = parse_script(
        "think: hm\nwait: 200ms\nwrite: a/b.txt\n  one\n\n    two\nbash: cd a\n  ls\n"
        'read: a/b.txt\ncall: glob {"pattern": "*"}\nsay: done\nfail: 503\ncut: x2 abc\nmalformed\nhang'
    )
    assert [reply.steps for reply in turn] == [
        (
            Think("hm"),
            Wait(timedelta(milliseconds=200)),
            CallTool("write", {"filePath": "a/b.txt", "content": "one\n\n  two\n"}),
        ),
        (CallTool("bash", {"command": "cd a\nls", "description": "Runs what the script says"}),),
        (CallTool("read", {"filePath": "a/b.txt"}),),
        (CallTool("glob", {"pattern": "*"}),),
        (Say("done"), Fail(503), CutStream("abc", times=2), Malformed(), Hang()),
    ]


@pytest.mark.parametrize("text", ["", "\n", "Add a README", "fix: the bug", "say", "hang on a moment", "Say: hi"])
def test_plain_words_are_no_script(text: str) -> None:
    """Prompts of people are not taken for scripts."""
    assert parse_prompt(text) is None


@given(st.text())
def test_any_prompt_is_understood_or_refused(text: str) -> None:
    """No prompt breaks the server: it is a script, plain words, or a clear error."""
    with contextlib.suppress(InvalidInput):
        assert parse_prompt(text) is None or parse_prompt(text)


@pytest.mark.parametrize("script", ["say: x\nshout: y", "fail: often", "fail: 200", "call: glob {", "wait: long", "x"])
def test_a_wrong_script_is_refused(script: str) -> None:
    """What is no step, no status, no JSON or no duration is said at once."""
    with pytest.raises(InvalidInput):
        parse_script(script)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.toml", '[[rules]]\nprompt = "README"\nturn = """\nwrite: README.md\n  # Hi\nsay: done"""\n'),
        ("s.json", '{"rules": [{"pattern": "READ[M]E", "turn": "write: README.md\\n  # Hi\\nsay: done"}]}'),
    ],
)
def test_a_script_file_gives_rules(tmp_path: Path, name: str, text: str) -> None:
    """TOML and JSON hold the same rules."""
    path = tmp_path / name
    path.write_text(text)
    [rule] = load_rules(path)
    assert rule.matches("Write a README please")
    assert not rule.matches("Write a poem")
    assert rule.turn == parse_script("write: README.md\n  # Hi\nsay: done")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"rules": 3}', '{"rules": [{"turn": "say: x"}]}', '{"rules": [{"pattern": "(", "turn": "hang"}]}'],
)
def test_a_wrong_script_file_is_refused(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    path = tmp_path / "script.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"script\.json"):
        load_rules(path)
    with pytest.raises(InvalidInput, match="No such file"):
        load_rules(tmp_path / "none.json")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_serves_until_a_signal(tmp_path: Path, how: signal.Signals) -> None:
    """It says its port in a file, plays the script file, logs, and ends with 0 and without a word of a traceback."""
    script, port_file, log = tmp_path / "script.toml", tmp_path / "port", tmp_path / "log.jsonl"
    script.write_text('[[rules]]\nprompt = "hi"\nturn = "say: scripted"\n')
    argv = [sys.executable, "-m", "cnap_runner.testing.scripted_model", "--script", str(script)]
    argv += ["--port-file", str(port_file), "--log", str(log)]
    async with await anyio.open_process(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with anyio.fail_after(20):
            while not port_file.exists():
                await anyio.sleep(0.05)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_file.read_text().strip()}/v1") as client:
            response = await client.post("/chat/completions", json={"stream": True, "messages": [user("hi")]})
        process.send_signal(how)
        assert process.stderr is not None
        told = b"".join([part async for part in process.stderr]).decode()
        assert await process.wait() == os.EX_OK
    assert deltas(response, "content") == ["scripted"]
    assert [each.prompt for each in read_log(log)] == ["hi"]
    assert "Traceback" not in told
